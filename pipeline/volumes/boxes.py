"""Where labels lie in a label map: most of it is background, and need not be looked at twice."""

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, ...]


def foreground_box(label: NDArray[np.uint8] | NDArray[np.bool_]) -> Box | None:
    """The smallest box of a label map or mask (Z, Y, X) that holds all of it; None if there is nothing."""
    rows = label.max(axis=2)
    slices, lines = np.flatnonzero(rows.max(axis=1)), np.flatnonzero(rows.max(axis=0))
    if not slices.size:
        return None
    z, y = slice(int(slices[0]), int(slices[-1]) + 1), slice(int(lines[0]), int(lines[-1]) + 1)
    columns = np.flatnonzero(label[z, y].max(axis=(0, 1)))
    return z, y, slice(int(columns[0]), int(columns[-1]) + 1)


def class_boxes(label: NDArray[np.uint8]) -> dict[int, Box]:
    """The smallest box of each class that a label map (Z, Y, X) holds, by class index."""
    from scipy import ndimage

    whole = foreground_box(label)
    if whole is None:
        return {}
    return {
        value: tuple(
            slice(start.start + edge.start, start.start + edge.stop)
            for start, edge in zip(whole, box, strict=True)
        )
        for value, box in enumerate(ndimage.find_objects(label[whole]), start=1)
        if box is not None
    }
