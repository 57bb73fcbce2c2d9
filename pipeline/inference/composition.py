"""What a network is given by the models before it: their maps as images, or where to look.

As images (`maps`) it is auto-context (Tu and Bai, PAMI 32, 2010; Chen et al., NeuroImage 170, 2018): the
network sees what was found, and corrects it. As a `region` it is coarse to fine (Roth et al., Computerized
Medical Imaging and Graphics 66, 2018): what lies far from anything found is background, never computed. As
a `box` it is a cascade (Christ et al., MICCAI 2016): the network sees the part of the image around what was
found, and nothing else.

In training the maps of a case come from models that have not learned from it. They are rounded to 255 steps
there and here, so that a file of them says the same as the network that made it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.sampling.boxes import Index
from pipeline.volumes.boxes import foreground_box

Given = NDArray[np.uint8]
Gives = Literal["maps", "region", "box"]
FULL = 255
"""A probability of one in a map."""


class Look(Protocol):
    """A network's way of looking at an image."""

    def __call__(self, seen: Tensor, where: Tensor | None = None) -> Tensor:
        """Class probabilities (classes, Z, Y, X) of an image (C, Z, Y, X), background but for `where`."""


def given_by(found: Tensor, before: Mapping[str, Any], spacing: Sequence[float]) -> Given:
    """What is handed on of class probabilities.

    Args:
        found: (classes, Z, Y, X).
        before: how: `gives`, and `grow_mm` around what was found.
        spacing: (z, y, x) millimetres.

    Returns:
        (classes - 1, Z, Y, X), the maps of all classes but background from 0 to 255; or (1, Z, Y, X), 1
        where the next network looks. If nothing was found, that is everywhere: an organ that one network
        overlooks is not lost for the other.
    """
    if before["gives"] == "maps":
        maps: Given = (found[1:] * FULL).round().to(torch.uint8).cpu().numpy()
        return maps
    region = grown((found[0] < 0.5).cpu().numpy(), before["grow_mm"], spacing)
    if not region.any():
        region[:] = True
    elif before["gives"] == "box":
        start, stop = bounds(region)
        region[tuple(map(slice, start, stop))] = True
    return region[None].astype(np.uint8)


def look_with(
    given: Given, gives: Gives, image: Tensor, look: Look, possible: Tensor | None = None
) -> Tensor:
    """What a network says of an image, given what was handed on: (classes, Z, Y, X).

    Args:
        given: as `given_by` returned it.
        gives: what it is.
        image: (C, Z, Y, X).
        look: the network.
        possible: (Z, Y, X) bool, where anything can be at all; None: everywhere.
    """
    handed = torch.from_numpy(given).to(image.device)
    if gives == "maps":
        return look(torch.cat([image, handed.to(image)]), possible)
    where = handed[0].bool()
    if gives == "region":
        return look(image, where if possible is None else where & possible)
    start, stop = bounds(given[0] > 0)
    box = tuple(map(slice, start, stop))
    inside = look(image[(slice(None), *box)], None if possible is None else possible[box])
    result = torch.zeros((len(inside), *image.shape[1:]), dtype=inside.dtype, device=inside.device)
    result[0] = 1
    result[(slice(None), *box)] = inside
    return result


def grown(region: NDArray[np.bool_], millimetres: float, spacing: Sequence[float]) -> NDArray[np.bool_]:
    """A region (Z, Y, X) and all that lies no further than so many millimetres from it."""
    if not millimetres or not region.any():
        return region.copy()
    from scipy.ndimage import distance_transform_edt

    reach = [int(np.ceil(millimetres / step)) for step in spacing]
    start, stop = bounds(region)
    # Distances are taken where they matter: around what was found.
    box = tuple(
        slice(max(0, first - more), last + more) for first, last, more in zip(start, stop, reach, strict=True)
    )
    result = np.zeros_like(region)
    result[box] = distance_transform_edt(~region[box], sampling=tuple(spacing)) <= millimetres
    return result


def bounds(region: NDArray[np.bool_]) -> tuple[Index, Index]:
    """The first voxel of the smallest box around a region, and the one behind its last, (z, y, x)."""
    box = foreground_box(region)
    assert box is not None, "the region holds a voxel"
    z, y, x = box
    return (z.start, y.start, x.start), (z.stop, y.stop, x.stop)
