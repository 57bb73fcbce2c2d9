"""Polygons as pixels: a pixel is inside if its centre is."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Indices = NDArray[np.intp]


def fill(points: Numbers, starts: Indices, planes: Indices, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Fill closed polygons by the even-odd rule, all that share a plane together.

    A ray from outside crosses as many edges as there are changes between outside and inside, whatever
    polygon an edge is of. So a polygon within another is a hole, and a channel that joins a hole to the
    outline, walked there and back, is no area. Of a centre that lies on an edge, the lower side counts
    as inside and the upper one as outside: polygons that share an edge share no pixel.

    Args:
        points: (N, 2), corners in pixels along (A, B), the polygons one after the other; the last
            corner of each is joined to its first. Pixel (a, b) has its centre at that point.
        starts: where in `points` each polygon begins.
        planes: the plane of each polygon.
        shape: (A, B, P) of the result; what lies beyond it is cut off.

    Returns:
        (A, B, P), A the fastest in memory.
    """
    result = np.zeros(shape, np.bool_, order="F")
    a, b, plane = _crossings(points, starts, planes, shape)
    if not a.size:
        return result
    # Only the box around all crossings is worked on; beyond the last of a line everything is outside.
    lowest = [int(axis.min()) for axis in (a, b, plane)]
    size = [int(axis.max()) + 1 - low for axis, low in zip((a, b, plane), lowest, strict=True)]
    changes = np.zeros(size[::-1], np.uint8)
    np.bitwise_xor.at(changes, (plane - lowest[2], b - lowest[1], a - lowest[0]), np.uint8(1))
    np.bitwise_xor.accumulate(changes, axis=1, out=changes)
    box = tuple(slice(low, low + n) for low, n in zip(lowest, size, strict=True))
    part = result[box]
    part[...] = changes.transpose(2, 1, 0)[:, : part.shape[1]]
    return result


def _crossings(
    points: Numbers, starts: Indices, planes: Indices, shape: tuple[int, int, int]
) -> tuple[Indices, Indices, Indices]:
    """Where the lines of pixels (a fixed, b running) cross an edge.

    Returns:
        Of each crossing, a, the first b behind it (the length of the line if there is none), its plane.
    """
    low, high, plane = _edges(points, starts, planes)
    # Half open: a corner between two edges is crossed once.
    first, last = (np.clip(np.ceil(end[:, 0]), 0, shape[0]).astype(np.intp) for end in (low, high))
    counts = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(counts)), counts)
    a = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    low, high, plane = low[edge], high[edge], plane[edge]
    b = low[:, 1] + (a - low[:, 0]) * (high[:, 1] - low[:, 1]) / (high[:, 0] - low[:, 0])
    return a, np.clip(np.ceil(b), 0, shape[1]).astype(np.intp), plane


def _edges(points: Numbers, starts: Indices, planes: Indices) -> tuple[Numbers, Numbers, Indices]:
    """Lower end (E, 2), upper end (E, 2) and plane (E,) of every edge.

    From low to high, whichever way it is walked: both walks of a channel round to the same pixels.
    """
    following = np.arange(1, len(points) + 1)
    following[np.append(starts[1:], len(points)) - 1] = starts
    ends = points[following]
    upward = (points[:, 0] < ends[:, 0])[:, None]
    plane = np.repeat(planes, np.diff(np.append(starts, len(points))))
    return np.where(upward, points, ends), np.where(upward, ends, points), plane
