"""From one grid to another: each axis by a matrix of its own, which is exact and fast.

Both grids are aligned with the canonical axes, so interpolation in three dimensions is three
interpolations in one, and each is linear in the voxels: a matrix, banded, made once a shape. Cubic
is the interpolating B-spline (Unser, IEEE Signal Processing Magazine 16, 1999), which keeps edges
that a linear interpolation blurs; outside the volume its edge is repeated.

Voxels are boxes: the outer corners of both grids coincide, not the first centres.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volumes.boxes import Box, class_boxes, foreground_box
from pipeline.volumes.geometry import Floats, Triple, resampled_shape, same_spacing

Kind = Literal["linear", "cubic"]
Index3 = tuple[int, int, int]

ANISOTROPIC = 3.0
"""An axis this many times coarser than the others is interpolated linearly: across thick slices a
cubic overshoots and invents structure (nnU-Net draws the line at the same ratio)."""
REACH = 14
"""Voxels to either side that a cubic's weights reach: beyond, they are below 1e-7."""
ROWS = 32
"""Rows of a banded matrix that are multiplied at once."""
SLAB = 2**28
"""Bytes of the shares of all classes that are interpolated at once."""
BACKGROUND_WINS = 1e-6
"""Shares closer than this are a tie."""


def interpolation(spacing: Triple) -> tuple[Kind, Kind, Kind]:
    """How each axis (z, y, x) of an image with this spacing in millimetres is interpolated."""
    coarse = [step > ANISOTROPIC * min(spacing) for step in spacing]
    kinds: list[Kind] = ["linear" if one else "cubic" for one in coarse]
    z, y, x = kinds
    return z, y, x


def resample_image(
    image: Floats,
    spacing: Triple,
    target: Triple,
    shape: Index3 | None = None,
    kinds: tuple[Kind, Kind, Kind] = ("linear", "linear", "linear"),
) -> Floats:
    """A canonical image (Z, Y, X) at another spacing; never beyond its lowest and highest value.

    Args:
        image: (Z, Y, X).
        spacing: millimetres of `image`, (z, y, x).
        target: millimetres wanted.
        shape: of the result; by default what covers the image.
        kinds: of interpolation, for each axis.
    """
    shape = shape or resampled_shape(image.shape, spacing, target)
    if same_spacing(spacing, target) and shape == image.shape:
        return image
    steps = tuple(new / old for new, old in zip(target, spacing, strict=True))
    result = _along_all(image, shape, steps, kinds)
    if "cubic" in kinds:
        np.clip(result, image.min(), image.max(), out=result)
    return result


def most_probable(shares: Floats, spacing: Triple, target: Triple, shape: Index3) -> NDArray[np.uint8]:
    """The class that weighs most at each voxel of another grid: what is interpolated are the shares.

    The new grid is filled slab by slab, so that what is held beside the result is bounded (`SLAB`).

    Args:
        shares: of each class (classes, Z, Y, X), 256 at most.
        spacing: millimetres of `shares`, (z, y, x).
        target: millimetres wanted.
        shape: of the result.
    """
    _, depth, height, width = shares.shape
    result = np.empty(shape, np.uint8)
    aside = same_spacing(spacing, target) and shape == (depth, height, width)
    steps = tuple(new / old for new, old in zip(target, spacing, strict=True))
    matrix = _matrix(depth, shape[0], steps[0], "linear")
    rows = max(1, SLAB // (4 * len(shares) * shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        slab = slice(start, start + rows)
        if aside:
            result[slab] = shares[:, slab].argmax(axis=0)
            continue
        weights = matrix[slab]
        used = np.flatnonzero(weights.any(axis=0))
        below = slice(int(used[0]), int(used[-1]) + 1)
        # At the depths of the slab first; then a plane is as any other.
        planes = [_along(np.ascontiguousarray(one[below]), weights[:, below], 0) for one in shares]
        within = (len(weights), *shape[1:])
        on_slab = [_along_all(one, within, (1.0, *steps[1:]), ("linear",) * 3) for one in planes]
        result[slab] = np.argmax(on_slab, axis=0)
    return result


def resample_labels(
    labels: NDArray[np.uint8], spacing: Triple, target: Triple, shape: Index3 | None = None
) -> NDArray[np.uint8]:
    """A label map (Z, Y, X) at another spacing: each voxel takes the class that weighs most at its centre.

    Every class is interpolated linearly by itself and the largest wins, so no value appears that was
    not there. A class is looked at where it is alone; the background has what the others leave.
    """
    shape = shape or resampled_shape(labels.shape, spacing, target)
    if same_spacing(spacing, target) and shape == labels.shape:
        return labels
    steps = tuple(new / old for new, old in zip(target, spacing, strict=True))
    matrices = [_matrix(n, m, step, "linear") for n, m, step in zip(labels.shape, shape, steps, strict=True)]
    result = np.zeros(shape, np.uint8)
    best, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for value, box in class_boxes(labels).items():
        share, where = _share((labels[box] == value).astype(np.float32), box, matrices)
        highest = best[where]
        total[where] += share
        np.copyto(result[where], np.uint8(value), where=share > highest)
        np.maximum(highest, share, out=highest)
    # Elsewhere the background has everything already.
    inside = foreground_box(result)
    if inside is not None:
        together = total[inside] + best[inside]
        np.copyto(result[inside], np.uint8(0), where=together < 1 + BACKGROUND_WINS)
    return result


def _share(mask: Floats, box: Box, matrices: list[Floats]) -> tuple[Floats, Box]:
    """A class that lies in `box` on the new grid: its shares, and where they are."""
    where = []
    for axis, (inside, matrix) in enumerate(zip(box, matrices, strict=True)):
        columns = matrix[:, inside]
        reached = np.flatnonzero(columns.any(axis=1))
        rows = slice(int(reached[0]), int(reached[-1]) + 1) if reached.size else slice(0, 0)
        where.append(rows)
        mask = _along(mask, columns[rows], axis)
    return mask, tuple(where)


def _along_all(
    image: Floats, shape: Index3, steps: tuple[float, ...], kinds: tuple[Kind, Kind, Kind]
) -> Floats:
    """All three axes; the one that shrinks most first, so that the others have less to do."""
    result = image
    for axis in sorted(range(3), key=lambda axis: shape[axis] / image.shape[axis]):
        length, wanted, step = image.shape[axis], shape[axis], steps[axis]
        if length != wanted or abs(step - 1) > 1e-9:
            result = _along(result, _matrix(length, wanted, step, kinds[axis]), axis)
    return np.ascontiguousarray(result)


def _along(volume: Floats, matrix: Floats, axis: int) -> Floats:
    """The volume with `matrix` (new, old) applied along one axis, band by band.

    What lies outside of a band is zero. Sums in float32 are exact to 1e-4 HU, and twice as fast as
    in float64.
    """
    shape = list(volume.shape)
    shape[axis] = len(matrix)
    result = np.empty(shape, np.float32)
    bands = [(rows, columns, matrix[rows, columns]) for rows, columns in _bands(matrix)]
    for slab, into in zip(_as_rows(volume, axis), _as_rows(result, axis), strict=True):
        for rows, columns, weights in bands:
            if axis == 2:
                np.matmul(slab[:, columns], weights.T, out=into[:, rows])
            else:
                np.matmul(weights, slab[columns], out=into[rows])
    return result


def _as_rows(volume: Floats, axis: int) -> Floats:
    """The volume as matrices of which `axis` is the first axis, or the last if it is the last."""
    if axis == 0:
        # Every length is said: of a class between the new voxels nothing is left, and -1 is not defined.
        return volume.reshape(1, volume.shape[0], volume.shape[1] * volume.shape[2])
    return volume


def _bands(matrix: Floats) -> list[tuple[slice, slice]]:
    """Rows taken together, and the columns that are not zero in any of them."""
    bands = []
    for first in range(0, len(matrix), ROWS):
        rows = slice(first, min(first + ROWS, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        bands.append((rows, slice(int(used[0]), int(used[-1]) + 1)))
    return bands


@lru_cache(maxsize=64)
def _matrix(length: int, wanted: int, step: float, kind: Kind) -> Floats:
    """The weights (wanted, length) that `length` voxels have in `wanted` voxels `step` apart."""
    places = step * np.arange(wanted, dtype=np.float64) + 0.5 * step - 0.5
    if kind == "linear" or length == 1:
        return _linear(length, places).astype(np.float32)
    # The spline is fitted to the volume with its edges repeated, as scipy's mode `nearest` does.
    padded = np.pad(np.eye(length), ((REACH, REACH), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(padded, order=3, axis=0, mode="mirror")
    weights = _cubic(length + 2 * REACH, np.clip(places, -1, length) + REACH) @ coefficients
    weights[np.abs(weights) < 1e-9] = 0
    found: Floats = weights.astype(np.float32)
    return found


def _linear(length: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the two voxels on either side of each place."""
    places = np.clip(places, 0, length - 1)
    low = np.minimum(places.astype(int), max(length - 2, 0))
    high, share = np.minimum(low + 1, length - 1), places - low
    weights = np.zeros((len(places), length))
    rows = np.arange(len(places))
    np.add.at(weights, (rows, low), 1 - share)
    np.add.at(weights, (rows, high), share)
    return weights


def _cubic(length: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of the cubic B-splines at every node, at each place."""
    distance = np.abs(places[:, None] - np.arange(length)[None])
    near = 2 / 3 - distance**2 * (2 - distance) / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    values: NDArray[np.float64] = np.where(distance < 1, near, far)
    return values
