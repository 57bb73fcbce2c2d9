"""The loss of all outputs of a network, each against what it is to tell."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.losses.segmentation import segmentation_loss
from pipeline.networks.base import Output
from pipeline.params import LossParams

CONTOUR_WIDTH = 3
"""Voxels of the window in which a voxel at a border sees another class."""


def supervised_loss(
    given: Tensor | tuple[Tensor, ...],
    outputs: Sequence[Output],
    label: Tensor,
    params: LossParams,
    unknown: Tensor | None = None,
) -> Tensor:
    """The weighted mean of the losses of a network's outputs.

    Args:
        given: what the network returned in training: logits, or as many as there are `outputs`.
        outputs: of the network's form.
        label: (B, Z, Y, X), class indices, int64.
        params: of the loss of the segmentation.
        unknown: (B, classes) bool, classes that nobody looked for in an element; None: there are none.
    """
    logits = given if isinstance(given, tuple) else (given,)
    total = logits[0].new_zeros((), dtype=torch.float32)
    for each, output in zip(logits, outputs, strict=True):
        if output.target == "label":
            loss = segmentation_loss(each, label, params, unknown)
        elif output.target == "contour":
            loss = functional.cross_entropy(each.float(), contour(label))
        else:
            loss = _presence_loss(each.float(), label)
        total = total + output.weight * loss
    return total / sum(output.weight for output in outputs)


def contour(label: Tensor) -> Tensor:
    """Where a labelled object ends: voxels of a class that have another class beside them.

    Args:
        label: (B, Z, Y, X), class indices, int64.

    Returns:
        (B, Z, Y, X), 1 at a border, else 0.
    """
    values = label[:, None].float()
    # A slice alone has no neighbours in z.
    window = [min(CONTOUR_WIDTH, edge) if edge > 1 else 1 for edge in label.shape[1:]]
    window = [edge if edge % 2 else edge - 1 for edge in window]
    around = [edge // 2 for edge in window]
    highest = functional.max_pool3d(values, window, 1, around)
    lowest = -functional.max_pool3d(-values, window, 1, around)
    return ((highest != lowest) & (values > 0))[:, 0].long()


def presence(label: Tensor, classes: int) -> Tensor:
    """Which classes each slice holds, (B, classes, Z, 1, 1), 1 or 0."""
    values = torch.arange(classes, device=label.device)[:, None, None, None]
    return (label[:, None] == values).any(dim=(3, 4), keepdim=True).float()


def _presence_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Binary cross-entropy of every class but the background."""
    return functional.binary_cross_entropy_with_logits(logits[:, 1:], presence(label, logits.shape[1])[:, 1:])
