"""Where the body is in a CT: on a coarse grid, because nothing that is asked of it needs a fine one."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volumes.geometry import Floats, Triple

TISSUE_ABOVE = -500.0
"""HU. Half way from air to water."""
ROOM_AIR_BELOW = -920.0
"""HU, on average. Lung that a narrow field of view cuts off is brighter, and belongs to the body."""
FEWEST_AIR = 100
"""Voxels of the grid; the median of fewer says nothing about the calibration."""
GRID = 1_000_000
"""Voxels of the grid, at most."""


@dataclass(frozen=True)
class Body:
    """The body in every few voxels of an image."""

    mask: NDArray[np.bool_]
    """(z, y, x), holes filled."""
    values: Floats
    """(z, y, x), HU on the same grid."""
    steps: tuple[int, int, int]
    """Voxels of the image from one of the grid to the next, (z, y, x)."""
    air: NDArray[np.bool_]
    """(z, y, x), the air around it."""

    @property
    def share(self) -> float:
        """Of the image that is body."""
        return float(self.mask.mean())

    @cached_property
    def air_hu(self) -> float | None:
        """Median HU of the air around the body; None if there is none."""
        values = self.values[self.air]
        return float(np.median(values)) if values.size >= FEWEST_AIR else None

    @cached_property
    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First and last voxel of the body in the image, (z, y, x); the image's own if there is no body."""
        found = ndimage.find_objects(self.mask.astype(np.uint8))
        edges = found[0] if found else tuple(slice(0, edge) for edge in self.mask.shape)
        first = np.array([edge.start for edge in edges], float)
        last = np.array([edge.stop - 1 for edge in edges], float)
        return first * self.steps, last * self.steps

    def holds(self, places: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the body is at each of `places`, (n, 3) voxels of the image (z, y, x)."""
        nearest = np.rint(places / self.steps).astype(np.intp)
        z, y, x = np.minimum(nearest, np.array(self.mask.shape) - 1).T
        inside: NDArray[np.bool_] = self.mask[z, y, x]
        return inside


def find_body(image: Floats, spacing: Triple) -> Body:
    """The largest piece of tissue in a CT (Z, Y, X) in HU, and everything it encloses.

    Holes are filled slice by slice: lungs and bowel are open at the ends of a scan more often than
    at its sides. The table is another piece, and smaller.
    """
    steps = steps_for(image.shape, spacing, GRID)
    values = image[tuple(slice(None, None, step) for step in steps)]
    pieces, _ = ndimage.label(values > TISSUE_ABOVE)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    if not sizes.any():
        return Body(pieces > 0, values, steps, pieces == 0)
    around = _around(values, pieces == sizes.argmax())
    # The table lies around the body, and is no air.
    return Body(~around, values, steps, around & (values <= TISSUE_ABOVE))


def _around(values: Floats, tissue: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What reaches the edge of its axial slice outside of `tissue` and holds air as dark as a room's."""
    within_slice = np.zeros((3, 3, 3), bool)
    within_slice[1] = ndimage.generate_binary_structure(2, 1)
    pieces, count = ndimage.label(~tissue, within_slice)
    dark = values <= TISSUE_ABOVE
    sums = np.bincount(pieces[dark], values[dark], count + 1)
    means = sums / np.maximum(np.bincount(pieces[dark], minlength=count + 1), 1)
    at_edge = np.zeros(count + 1, bool)
    for edge in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        at_edge[edge.ravel()] = True
    outside = at_edge & (means < ROOM_AIR_BELOW)
    outside[0] = False
    around: NDArray[np.bool_] = outside[pieces]
    return around


def steps_for(shape: tuple[int, ...], spacing: Triple, limit: int) -> tuple[int, int, int]:
    """Powers of two that thin `shape` out to at most `limit` voxels, as equal in millimetres as can be."""
    steps = [1, 1, 1]
    while np.prod([-(-edge // step) for edge, step in zip(shape, steps, strict=True)]) > limit:
        lengths = [
            step * mm if step < edge else np.inf for step, mm, edge in zip(steps, spacing, shape, strict=True)
        ]
        steps[int(np.argmin(lengths))] *= 2
    z, y, x = steps
    return z, y, x
