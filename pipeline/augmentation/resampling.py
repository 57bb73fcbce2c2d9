"""Patches resampled on a CPU: what `grid_sample` gives, which goes voxel by voxel, in half of its time."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

SLAB_VOXELS = 2**15 - 1
"""Resampled at once: few enough that what is computed on the way stays in the processor's cache."""


def resample(
    image: Tensor, label: Tensor, matrix: Tensor, displacement: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Resample image (B, C, Z, Y, X) linearly and label (B, Z, Y, X) to the nearest voxel.

    What comes from outside repeats the edge.

    Args:
        image: float32.
        label: class indices.
        matrix: (B, 3, 4), from output to input, in the normalised coordinates x y z of `grid_sample`.
        displacement: of each element (3, Z, Y, X), added to the input coordinates; None: nothing.
    """
    moved_image, moved_label = torch.empty_like(image), torch.empty_like(label)
    for element in zip(image, label, matrix, displacement, moved_image, moved_label, strict=True):
        _resample(*element)
    return moved_image, moved_label


def _resample(
    image: Tensor,
    label: Tensor,
    matrix: Tensor,
    displacement: Tensor | None,
    moved_image: Tensor,
    moved_label: Tensor,
) -> None:
    """One element, slab by slab, into `moved_image` and `moved_label`."""
    size = image.shape[1:]
    strides = (size[1] * size[2], size[2], 1)
    # The neighbour of a voxel at the edge weighs nothing, but has to be somewhere.
    channels = [functional.pad(channel.reshape(-1), (0, sum(strides))) for channel in image]
    labels = label.reshape(-1)
    terms = _terms(matrix, size)
    slices = min(size[0], max(1, SLAB_VOXELS // strides[0]))
    # Memory that is asked for anew costs more than what is computed in it.
    floats = torch.empty(6, slices * strides[0])
    integers = torch.empty(2, slices * strides[0], dtype=torch.int32)
    for first in range(0, size[0], slices):
        slab = slice(first, min(first + slices, size[0]))
        voxels = (slab.stop - first) * strides[0]
        (*places, one, two, three), (index, more) = floats[:, :voxels], integers[:, :voxels]
        for axis, (place, (of_z, of_y, of_x)) in enumerate(zip(places, terms, strict=True)):
            lying = place.view(-1, *size[1:])
            torch.add(of_z[slab] + of_y, of_x, out=lying)
            if displacement is not None:
                # The axes of coordinates run the other way.
                lying.add_(displacement[2 - axis, slab], alpha=size[axis] / 2)
            place.clamp_(0, size[axis] - 1)
        near = [torch.round(place, out=to) for place, to in zip(places, (one, two, three), strict=True)]
        _index(near, size, index, more)
        torch.index_select(labels, 0, index, out=moved_label[slab].view(-1))
        _index(places, size, index, more)
        for place in places:
            place.frac_()
        for moved, channel in zip(moved_image, channels, strict=True):
            _between(channel, index, places, strides, [moved[slab].view(-1), one, two, three])


def _terms(matrix: Tensor, size: Sequence[int]) -> list[list[Tensor]]:
    """For each axis z y x, what an output voxel's z, y and x add to its input place: (Z, 1, 1), (Y, 1), (X,).

    Their sum is in voxels of the input, 0 in the middle of the first one.
    """
    wide = matrix.double()
    at = [(torch.arange(edge, dtype=torch.float64) * 2 + 1) / edge - 1 for edge in size]
    terms = []
    for axis, edge in enumerate(size):
        x, y, z, shift = wide[2 - axis] * (edge / 2)
        of_x = at[2] * x + (shift + (edge - 1) / 2)
        parts = (at[0] * z)[:, None, None], (at[1] * y)[:, None], of_x
        terms.append([part.float() for part in parts])
    return terms


def _index(places: list[Tensor], size: Sequence[int], index: Tensor, more: Tensor) -> None:
    """Write into `index` where the voxels at the integer parts of `places` lie in the flattened volume."""
    index.copy_(places[0])
    for place, edge in zip(places[1:], size[1:], strict=True):
        more.copy_(place)
        torch.add(more, index, alpha=edge, out=index)


def _between(
    channel: Tensor, index: Tensor, shares: list[Tensor], strides: Sequence[int], to: list[Tensor]
) -> None:
    """Write into `to[0]` what lies between the eight voxels from `index` on, by shares along z, y and x."""

    def along(axis: int, offset: int, k: int) -> None:
        if axis == 3:
            torch.index_select(channel[offset:], 0, index, out=to[k])
            return
        along(axis + 1, offset, k)
        along(axis + 1, offset + strides[axis], k + 1)
        torch.lerp(to[k], to[k + 1], shares[axis], out=to[k])

    along(0, 0, 0)
