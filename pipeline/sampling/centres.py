"""Patch centres: balanced over classes, without the organ, or anywhere in the background."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.params import Shares
from pipeline.sampling.boxes import Index

Label = NDArray[np.uint8]


def draw_centres(
    label: Label, size: Index, shares: Shares, count: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Draw `count` patch centres from one case, in the given shares.

    Args:
        label: (Z, Y, X) class indices.
        size: of the patch, (z, y, x) voxels.
        shares: of foreground, negative and background centres.
        count: how many.
        generator: the source of randomness, keyed by the case.

    Returns:
        A row a patch: kind (foreground, negative or background), class (0 where there is none),
        z, y, x. Where a case has no labelled voxel, or no room for a patch without one, background
        centres take the place.
    """
    wanted = _counts(shares, count)
    rows = _foreground(label, wanted["foreground"], generator)
    rows += _negative(label, size, wanted["negative"], generator)
    return rows + _background(label, count - len(rows), generator)


def _counts(shares: Shares, count: int) -> dict[str, int]:
    """Whole numbers in the given shares that add up to `count` (largest remainder)."""
    exact = {name: share * count for name, share in shares.model_dump().items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def _foreground(label: Label, count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Centres on labelled voxels, the classes of the case taking turns in a drawn order.

    In a fixed order the last classes would get fewer, or none where a case has more classes than turns.
    """
    present = [int(value) for value in generator.permutation(np.unique(label[label > 0]))]
    if not present:
        return []
    turns = [present[turn % len(present)] for turn in range(count)]
    rows: list[dict[str, Any]] = []
    for value in present:
        rows += _pick(np.argwhere(label == value), turns.count(value), "foreground", value, generator)
    return rows


def _negative(label: Label, size: Index, count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """Centres of patches that lie within the volume and hold no labelled voxel."""
    if any(edge > n for edge, n in zip(size, label.shape, strict=True)):
        return []
    starts = np.argwhere(_labelled_voxels(label, size) == 0)
    return _pick(starts + np.array(size) // 2, count, "negative", 0, generator)


def _labelled_voxels(label: Label, size: Index) -> NDArray[np.int64]:
    """Labelled voxels in the patch that starts at each voxel, by a summed-volume table."""
    table = np.pad((label > 0).astype(np.int64), ((1, 0), (1, 0), (1, 0)))
    for axis, edge in enumerate(size):
        table = table.cumsum(axis)
        upper = np.take(table, range(edge, table.shape[axis]), axis)
        table = upper - np.take(table, range(table.shape[axis] - edge), axis)
    return table


def _background(label: Label, count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    voxels = np.argwhere(label == 0)
    return _pick(voxels if len(voxels) else np.argwhere(label >= 0), count, "background", 0, generator)


def _pick(
    voxels: NDArray[np.int64], count: int, kind: str, value: int, generator: np.random.Generator
) -> list[dict[str, Any]]:
    if not len(voxels):
        return []
    chosen = voxels[generator.integers(len(voxels), size=count)]
    return [{"kind": kind, "class": value, "z": int(z), "y": int(y), "x": int(x)} for z, y, x in chosen]
