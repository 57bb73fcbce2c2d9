"""Distances between the surfaces of a label map and of the truth: HD95, ASSD, NSD.

The surface of a mask is the voxels of it of which one of the six neighbours is not in it; outside the
image nothing is. What is measured is between the centres of such voxels, in millimetres.

What empty masks mean: where both are empty there is nothing to measure and every figure is NaN, which
means leave it out; where one of them is empty, the distances are infinite and NSD is 0.
"""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipeline.volumes.boxes import foreground_box

NAN, INFINITE = float("nan"), float("inf")


@dataclass(frozen=True)
class Surface:
    """Of one label in one case."""

    hd95: float
    """The 95th percentile of the distances from one surface to the other, of the two the larger (mm)."""
    assd: float
    """Mean of the distances of both surfaces to the other (mm)."""
    nsd: float
    """Share of both surfaces that is at most the tolerance away from the other."""


def surface(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    tolerance_mm: float,
) -> Surface:
    """How far two masks of the same shape (three axes) are from each other at their surfaces.

    HD95 after Huttenlocher et al. 1993, ASSD after Heimann et al. 2009, NSD after Nikolov et al. 2021.

    Args:
        truth: mask.
        predicted: mask.
        spacing: millimetres between voxels, on each axis.
        tolerance_mm: what is called near, in NSD.
    """
    ours, theirs = distances(truth, predicted, spacing)
    if not ours.size and not theirs.size:
        return Surface(NAN, NAN, NAN)
    if not ours.size or not theirs.size:
        return Surface(INFINITE, INFINITE, 0.0)
    both = np.concatenate([ours, theirs])
    return Surface(
        hd95=float(max(np.percentile(ours, 95), np.percentile(theirs, 95))),
        assd=float(both.mean()),
        nsd=float(np.count_nonzero(both <= tolerance_mm) / both.size),
    )


def distances(
    truth: NDArray[np.bool_], predicted: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each surface voxel of the truth to the nearest of the prediction, and the other way round (mm).

    Infinite where the other mask is empty.
    """
    boxes = [box for mask in (truth, predicted) if (box := foreground_box(mask)) is not None]
    if not boxes:
        return np.empty(0), np.empty(0)
    # Only the box around both is looked at: what lies outside it is in neither.
    box = tuple(
        slice(min(each.start for each in axis), max(each.stop for each in axis))
        for axis in zip(*boxes, strict=True)
    )
    first, second = edge(truth[box]), edge(predicted[box])
    return _to_nearest(first, second, spacing), _to_nearest(second, first, spacing)


def edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels of a mask of which a face is not shared with another one of it."""
    padded = np.pad(mask, 1)
    middle = slice(1, -1)
    sides = [
        padded[tuple(side if axis == other else middle for other in range(mask.ndim))]
        for axis in range(mask.ndim)
        for side in (slice(None, -2), slice(2, None))
    ]
    return mask & ~reduce(np.logical_and, sides)


def _to_nearest(
    edges: NDArray[np.bool_], others: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    found = np.zeros(np.count_nonzero(edges))
    if not others.any():
        return found + INFINITE
    # A voxel of both surfaces needs no search; a good prediction consists of them for the most part.
    apart = ~others[edges]
    points = np.argwhere(edges)[apart] * spacing
    if len(points):
        found[apart] = cKDTree(np.argwhere(others) * spacing, balanced_tree=False).query(points)[0]
    return found
