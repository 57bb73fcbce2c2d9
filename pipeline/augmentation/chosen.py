"""Applying a transform to the elements of a batch that it was drawn for."""

from collections.abc import Callable

import torch
from torch import Tensor


def apply_to_chosen(
    transform: Callable[..., tuple[Tensor, ...]],
    tensors: tuple[Tensor, ...],
    drawn: tuple[Tensor, ...],
    chosen: Tensor,
    whole: bool,
) -> tuple[Tensor, ...]:
    """What `transform` makes of the chosen elements of a batch; the others keep every bit.

    Args:
        transform: of batches of any size; given `tensors` and `drawn`, it returns as many as `tensors`.
        tensors: of the batch, (B, ...).
        drawn: what the transform needs to know of each element, (B, ...).
        chosen: (B,) bool.
        whole: transform all elements and throw away what is not wanted. On a GPU that costs less than to
            tell them apart: shapes stay the same, and the CPU need not know what was chosen.
    """
    if whole:
        changed = transform(*tensors, *drawn)
        return tuple(
            torch.where(chosen.view(-1, *[1] * (old.ndim - 1)), new, old)
            for new, old in zip(changed, tensors, strict=True)
        )
    if not bool(chosen.any()):
        return tensors
    if bool(chosen.all()):
        return transform(*tensors, *drawn)
    which = chosen.nonzero()[:, 0]
    changed = transform(*(tensor[which] for tensor in (*tensors, *drawn)))
    return tuple(old.index_copy(0, which, new) for new, old in zip(changed, tensors, strict=True))
