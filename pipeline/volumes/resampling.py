"""From one grid to another: each axis by a matrix of its own, which is exact and fast.

Both grids are aligned with the canonical axes, so interpolation in three dimensions is three
interpolations in one, and each is linear in the voxels: a matrix, banded, made once a shape. Cubic
is the interpolating B-spline (Unser, IEEE Signal Processing Magazine 16, 1999), which keeps edges
that a linear interpolation blurs; outside the volume its edge is repeated.

Voxels are boxes: the outer corners of both grids coincide, not the first centres.
"""

from collections.abc import Iterable
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


def most_probable(
    shares: Iterable[Floats], within: Index3, spacing: Triple, target: Triple, shape: Index3
) -> NDArray[np.uint8]:
    """The class that weighs most at each voxel of another grid: what is interpolated are the shares.

    They come slab by slab and are used up as they come: neither grid is ever held in all classes.

    Args:
        shares: of each class, 256 at most: slabs (classes, planes, Y, X) from the first plane to the last.
        within: what the slabs are together, (Z, Y, X).
        spacing: millimetres of `shares`, (z, y, x).
        target: millimetres wanted.
        shape: of the result.
    """
    result = np.empty(shape, np.uint8)
    steps = tuple(new / old for new, old in zip(target, spacing, strict=True))
    if same_spacing(spacing, target) and shape == within:
        # On its way here the image was taken as it is.
        steps = (1.0, 1.0, 1.0)
    matrix = _matrix(within[0], shape[0], steps[0], "linear")
    lowest, highest = _reach(matrix)
    held, come, done = None, 0, 0
    for slab in shares:
        held = slab if held is None or not held.shape[1] else np.concatenate([held, slab], axis=1)
        come += slab.shape[1]
        first, ready = come - held.shape[1], int(np.searchsorted(highest, come))
        rows = max(1, SLAB // (4 * len(held) * shape[1] * shape[2]))
        for start in range(done, ready, rows):
            new = slice(start, min(start + rows, ready))
            old = slice(lowest[new.start], highest[new.stop - 1] + 1)
            planes = held[:, old.start - first : old.stop - first]
            result[new] = _most_probable_planes(planes, matrix[new, old], steps, shape)
        done = ready
        needed = int(lowest[done]) if done < shape[0] else come
        held = held[:, max(0, needed - first) :]
    return result


def _most_probable_planes(
    planes: Floats, weights: Floats, steps: tuple[float, ...], shape: Index3
) -> NDArray[np.intp]:
    """The class that weighs most on new planes, of old planes (classes, Z, Y, X) and their weights."""
    if planes.shape[2:] == shape[1:] and all(abs(step - 1) < 1e-9 for step in steps):
        whole: NDArray[np.intp] = planes.argmax(axis=0)
        return whole
    # At the new depths first; then a plane is as any other.
    at_depth = [_along(np.ascontiguousarray(one), weights, 0) for one in planes]
    within = (len(weights), *shape[1:])
    winner: NDArray[np.intp] = np.argmax(
        [_along_all(one, within, (1.0, *steps[1:]), ("linear",) * 3) for one in at_depth], axis=0
    )
    return winner


def _reach(matrix: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The first and the last column that is not zero of each row; neither ever goes back."""
    used = matrix != 0
    return used.argmax(axis=1), matrix.shape[1] - 1 - used[:, ::-1].argmax(axis=1)


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
