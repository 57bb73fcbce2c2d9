"""Whether slices make up one regular volume, and where it lies.

A volume is slices of one size, one spacing and one orientation, a constant step apart along their
normal. Each way to fail that has its own reason, because each is mended otherwise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.readers.dicom_planes import SQUARE, Plane, Vector
from pipeline.volumes.readers.scan import THINNEST, TILT

FEWEST = 3
"""Slices; of fewer nobody can tell whether their step is constant."""
UNEVEN = 0.1
"""Share of the step by which a slice may lie off its place: positions are often rounded to 0.1 mm."""
ASIDE = 0.5
"""Pixels that a slice may lie aside of the first one."""

Voxels = NDArray[np.float64]
Load = Callable[[Plane], Voxels]


@dataclass(frozen=True)
class Grid:
    """Slices in order, and where they lie."""

    planes: list[Plane]
    """Along their normal, each place once."""
    affine: Vector
    """4×4, voxel indices (column, row, slice) to millimetres in RAS+."""
    notes: tuple[str, ...]


def arrange(name: str, planes: Sequence[Plane], load: Load) -> Grid:
    """Put slices in order.

    Args:
        name: of the series, for messages.
        planes: in any order.
        load: gives the scaled values of a slice; asked only where two lie at one place.

    Raises:
        DataError: they are no regular volume, and why.
    """
    _check_alike(name, planes)
    _check_count(name, len(planes))
    normal = np.cross(*planes[0].directions)
    ordered = sorted(planes, key=lambda plane: (float(plane.position @ normal), plane.path.name, plane.frame))
    depths = _depths(ordered, normal)
    if depths[-1] - depths[0] < THINNEST:
        raise DataError(
            f"{name}: all {len(planes)} slices lie at one position, which makes no volume",
            "leave it out, or give a series that covers a volume",
        )
    kept = _without_copies(name, ordered, depths, load)
    _check_count(name, len(kept))
    depths = _depths(kept, normal)
    _check_steps(name, depths)
    _check_straight(name, kept, normal)
    dropped = len(ordered) - len(kept)
    note = f"{dropped} slices were there twice with the same pixels; the copies were dropped"
    return Grid(
        kept,
        _affine(kept[0], normal, float(depths[-1] - depths[0]) / (len(kept) - 1)),
        (note,) * bool(dropped),
    )


def _depths(planes: Sequence[Plane], normal: Vector) -> Vector:
    """Positions along the normal, millimetres."""
    return np.array([float(plane.position @ normal) for plane in planes])


def _affine(first: Plane, normal: Vector, step: float) -> Vector:
    columns, rows = first.directions
    affine = np.eye(4)
    affine[:3, 0] = columns * first.spacing[0]
    affine[:3, 1] = rows * first.spacing[1]
    affine[:3, 2] = normal * (step / float(np.linalg.norm(normal)))
    affine[:3, 3] = first.position
    # DICOM's axes run to the left and to the back, the pipeline's to the right and to the front.
    flipped: Vector = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return flipped


def _check_alike(name: str, planes: Sequence[Plane]) -> None:
    orientations: list[Vector] = []
    for plane in planes:
        if all(np.abs(plane.directions - known).max() > SQUARE for known in orientations):
            orientations.append(plane.directions)
    if len(orientations) > 1:
        raise DataError(
            f"{name}: its slices have {len(orientations)} orientations", "split it into a series for each"
        )
    sizes = sorted({plane.size for plane in planes})
    if len(sizes) > 1:
        told = ", ".join(f"{columns} x {rows}" for columns, rows in sizes[:4])
        raise DataError(
            f"{name}: its slices have several sizes ({told})", "split it into a series for each size"
        )
    scaled = sum(plane.has_scale for plane in planes)
    if 0 < scaled < len(planes):
        raise DataError(
            f"{name}: {scaled} of its {len(planes)} slices have a rescale slope and the others none",
            "export the series again",
        )
    if any(not np.allclose(plane.spacing, planes[0].spacing, rtol=SQUARE, atol=0) for plane in planes):
        spacings = sorted({plane.spacing for plane in planes})
        told = ", ".join(f"{columns:g} x {rows:g} mm" for columns, rows in spacings[:4])
        raise DataError(
            f"{name}: its slices have several pixel spacings ({told})",
            "split it into a series for each spacing",
        )


def _check_count(name: str, count: int) -> None:
    if count < FEWEST:
        raise DataError(
            f"{name}: {count} slice{'s' * (count != 1)}, a volume has at least {FEWEST}",
            "give all slices of the series",
        )


def _without_copies(name: str, ordered: Sequence[Plane], depths: Vector, load: Load) -> list[Plane]:
    """Each place once; a slice that is there again, pixel for pixel, is left out."""
    starts = [0, *(int(k) + 1 for k in np.flatnonzero(np.diff(depths) >= THINNEST)), len(ordered)]
    groups = [ordered[start:end] for start, end in pairwise(starts)]
    for group in groups:
        if len(group) > 1 and not _equal(load, group):
            raise DataError(
                f"{name}: {len(ordered)} slices lie at {len(groups)} positions, with different pixels at "
                "one: several phases, echoes or times in one series",
                "split it into a series for each",
            )
    return [group[0] for group in groups]


def _equal(load: Load, planes: Sequence[Plane]) -> bool:
    first = load(planes[0])
    return all(np.array_equal(first, load(plane)) for plane in planes[1:])


def _check_steps(name: str, depths: Vector) -> None:
    """Refuse slices that are missing, and steps that differ."""
    places = np.linspace(depths[0], depths[-1], len(depths))
    step = places[1] - places[0]
    if float(np.abs(depths - places).max()) <= UNEVEN * step:
        return
    steps = np.diff(depths)
    usual = _usual(steps)
    multiples = np.round(steps / usual)
    if multiples.min() >= 1 and float(np.abs(steps / usual - multiples).max()) <= UNEVEN:
        gaps = np.flatnonzero(multiples > 1)
        missing = int((multiples - 1).sum())
        told = ", ".join(f"{depths[gap]:.1f} and {depths[gap + 1]:.1f} mm" for gap in gaps[:3])
        raise DataError(
            f"{name}: {missing} slice{'s are' if missing > 1 else ' is'} missing between {told} along their "
            f"normal{' and elsewhere' * (len(gaps) > 3)} (they usually lie {usual:.3g} mm apart)",
            "fetch the whole series again",
        )
    raise DataError(
        f"{name}: its slices lie {steps.min():.3g} to {steps.max():.3g} mm apart, not evenly",
        "resample it onto even slices, or give a series with a constant increment",
    )


def _usual(steps: Vector) -> float:
    """The step that others are multiples of: the smallest, unless that one is an outlier."""
    middle = float(np.sort(steps)[(len(steps) - 1) // 2])
    smallest = float(steps.min())
    if smallest < middle / 2 * (1 - UNEVEN):
        return middle
    return float(np.median(steps[steps <= smallest * (1 + UNEVEN)]))


def _check_straight(name: str, planes: Sequence[Plane], normal: Vector) -> None:
    """Refuse slices that do not lie behind each other along their normal."""
    way = np.array([plane.position - planes[0].position for plane in planes])
    depths = way @ normal
    aside = way - depths[:, None] * normal
    farthest = float(np.linalg.norm(aside, axis=1).max())
    angle = math.degrees(math.atan2(float(np.linalg.norm(aside[-1])), float(depths[-1])))
    limit = ASIDE * min(planes[0].spacing)
    even = aside[-1] * (depths / depths[-1])[:, None]
    if float(np.linalg.norm(aside - even, axis=1).max()) > limit:
        raise DataError(
            f"{name}: its slices are shifted against each other by up to {farthest:.1f} mm, across their "
            "normal",
            "resample it onto a straight volume",
        )
    if angle > TILT or farthest > limit:
        raise DataError(
            f"{name}: its slices are tilted by {angle:.1f} degrees against the way from slice to slice "
            "(gantry tilt): a sheared volume",
            "resample it onto a straight volume, or give a series without tilt",
        )
