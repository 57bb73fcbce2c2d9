"""A network over a volume of any size: overlapping windows, blended with Gaussian weights."""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.networks.base import Network

OVERLAP = 0.5
"""Of neighbouring windows."""


@torch.inference_mode()
def probabilities(
    network: Network,
    image: Tensor,
    window: Sequence[int],
    classes: int,
    precision: torch.dtype,
    batch_size: int = 4,
    where: Tensor | None = None,
) -> Tensor:
    """Class probabilities of every voxel, (classes, Z, Y, X), float32.

    Windows count less towards their edge, where the network has seen less around a voxel (as in
    nnU-Net and MONAI). A volume smaller than a window is padded by repeating its edge.

    Args:
        network: in evaluation mode, on the device of the image.
        image: normalised, (C, Z, Y, X).
        window: (z, y, x) voxels that are labelled at a time; more where the network cannot give so few.
        classes: of the network, background included.
        precision: to compute in.
        batch_size: windows at a time; memory is that of the volume in all classes and of these windows.
        where: (Z, Y, X) bool; elsewhere is background, and windows that lie there are not computed.
    """
    window, margin = network.form.fit(window), network.form.margin
    shape = image.shape[1:]
    padding = [max(0, edge - n) for edge, n in zip(window, shape, strict=True)]
    before = [pad // 2 for pad in padding]
    sides = [side for pad, first in zip(padding, before, strict=True) for side in (first, pad - first)]
    around = [side + margin[axis // 2] for axis, side in enumerate(sides)]
    padded = functional.pad(image[None], _last_first(around), mode="replicate")[0]
    weight = _gaussian(window).to(image)
    inner = [n + pad for n, pad in zip(shape, padding, strict=True)]
    total = image.new_zeros((classes, *inner))
    weights = image.new_zeros(inner)
    starts = list(product(*(_starts(n, edge) for n, edge in zip(inner, window, strict=True))))
    inside = tuple(slice(first, first + n) for first, n in zip(before, shape, strict=True))
    if where is not None:
        wanted = torch.zeros(inner, dtype=torch.bool, device=image.device)
        wanted[inside] = where
        starts = [start for start in starts if wanted[_box(start, window)].any()]
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        boxes = [_box(start, window) for start in chosen]
        given = [_box(start, network.form.input_size(window)) for start in chosen]
        batch = torch.stack([padded[(slice(None), *box)] for box in given])
        with torch.autocast(image.device.type, precision, precision != torch.float32):
            logits = network(batch)
        for box, share in zip(boxes, logits.float().softmax(dim=1), strict=True):
            total[(slice(None), *box)] += share * weight
            weights[box] += weight
    if where is None:
        return (total / weights)[(slice(None), *inside)]
    found = (total / weights.clamp_min(torch.finfo(weights.dtype).tiny))[(slice(None), *inside)]
    background = functional.one_hot(torch.tensor(0), classes).to(found)[:, None, None, None]
    return torch.where(where, found, background)


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))


def _starts(length: int, edge: int) -> list[int]:
    """Where windows begin along an axis, evenly apart, the last one ending with the volume."""
    if length <= edge:
        return [0]
    count = 1 + -(-(length - edge) // max(1, int(edge * (1 - OVERLAP))))
    return [round(index * (length - edge) / (count - 1)) for index in range(count)]


def _gaussian(window: Sequence[int]) -> Tensor:
    """Weights (z, y, x), 1 in the middle, a deviation of an eighth of the edge, never zero."""
    weight = torch.ones(1)
    for edge in window:
        offset = (torch.arange(edge) - (edge - 1) / 2) / (edge / 8)
        weight = weight[..., None] * (-0.5 * offset**2).exp()
    return weight[0].clamp_min(1e-4)


def _last_first(sides: list[int]) -> list[int]:
    """Padding in the order of `torch.nn.functional.pad`: the last axis first."""
    return [side for axis in (2, 1, 0) for side in sides[2 * axis : 2 * axis + 2]]
