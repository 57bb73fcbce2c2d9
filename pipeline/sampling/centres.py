"""Patch centres: balanced over classes, where it is hard, without the organ, anywhere else, or on a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.labels import UNKNOWN
from pipeline.params import PatchesParams
from pipeline.sampling.boxes import Index

Label = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rows = list[dict[str, Any]]
SHIFT = 4
"""A view of a place is moved by at most a patch's edge divided by this."""


@dataclass(frozen=True)
class Case:
    """What of a case decides where its patches lie."""

    label: Label
    """(Z, Y, X) class indices."""
    hard: Mask | None = None
    """Voxels that are easily taken for what they are not; None: nobody asked."""
    regions: NDArray[np.int32] | None = None
    """The supervoxel of each voxel; None: every voxel counts for itself."""


def draw_centres(
    case: Case, size: Index, params: PatchesParams, balance: Sequence[float], generator: np.random.Generator
) -> Rows:
    """Draw `params.per_case` patch centres from one case, in the shares of `params`.

    Args:
        case: to draw from.
        size: of the patch, (z, y, x) voxels.
        params: how many, and of what.
        balance: what each class counts among the foreground centres, in the order of the classes; empty:
            all the same.
        generator: the source of randomness, keyed by the case.

    Returns:
        A row a patch: kind (foreground, hard, negative or background), class (0 where there is none), z, y,
        x. Where a case has no labelled voxel, nothing hard, or no room for a patch without the organ,
        background centres take the place.
    """
    wanted = _counts(params.shares.model_dump(), params.per_case)
    # Of as many places as there are views, one is drawn.
    places = {kind: -(-wanted[kind] // params.views) for kind in ("foreground", "hard")}
    seen = _foreground(case, places["foreground"], balance, generator)
    rows = _viewed(seen, wanted["foreground"], params.views, size, case.label.shape, generator)
    seen = [] if case.hard is None else _pick(case, case.hard, places["hard"], "hard", generator)
    rows += _viewed(seen, wanted["hard"], params.views, size, case.label.shape, generator)
    rows += _negative(case, size, wanted["negative"], generator)
    return rows + _background(case, params.per_case - len(rows), generator)


def grid_centres(label: Label, size: Index, overlap: float) -> Rows:
    """The centres of patches that cover every voxel of a case.

    Args:
        label: (Z, Y, X) class indices.
        size: of the patch, (z, y, x) voxels.
        overlap: the share of its edge by which a patch overlaps the next one at least.

    Returns:
        A row a patch: kind grid, class (that of its centre), z, y, x.
    """
    axes = [_along(n, edge, overlap) for n, edge in zip(label.shape, size, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return [_row("grid", _class(label[tuple(place)]), place) for place in places]


def hard_range(image: NDArray[np.float32], label: Label) -> tuple[float, float] | None:
    """The intensities of the middle nine tenths of the labelled voxels; None if there are none."""
    values = image[_labelled(label)]
    return (float(np.percentile(values, 5)), float(np.percentile(values, 95))) if len(values) else None


def _along(n: int, edge: int, overlap: float) -> NDArray[np.int64]:
    if n <= edge:
        return np.array([n // 2])
    steps = int(np.ceil((n - edge) / max(1, int(edge * (1 - overlap)))))
    return np.rint(np.linspace(0, n - edge, steps + 1)).astype(int) + edge // 2


def _counts(shares: dict[str, float], count: int) -> dict[str, int]:
    """Whole numbers in the given shares that add up to `count` (largest remainder)."""
    exact = {name: share * count for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts


def _labelled(label: Label) -> Mask:
    labelled: Mask = (label > 0) & (label != UNKNOWN)
    return labelled


def _foreground(case: Case, count: int, balance: Sequence[float], generator: np.random.Generator) -> Rows:
    """Centres on labelled voxels, the classes of the case taking turns in a drawn order, or by `balance`.

    In a fixed order the last classes would get fewer, or none where a case has more classes than turns.
    """
    present = [int(value) for value in generator.permutation(np.unique(case.label[_labelled(case.label)]))]
    weights = {str(value): balance[value - 1] if balance else 1.0 for value in present}
    total = sum(weights.values())
    if not total:
        return []
    counts = _counts({value: weight / total for value, weight in weights.items()}, count)
    rows: Rows = []
    for value in present:
        rows += _pick(case, case.label == value, counts[str(value)], "foreground", generator)
    return rows


def _negative(case: Case, size: Index, count: int, generator: np.random.Generator) -> Rows:
    """Centres of patches that lie within the volume and hold no labelled voxel, nor one nobody looked at."""
    label = case.label
    if any(edge > n for edge, n in zip(size, label.shape, strict=True)):
        return []
    free = _labelled_voxels(label, size) == 0
    centres = np.zeros(label.shape, bool)
    centres[tuple(slice(edge // 2, edge // 2 + n) for edge, n in zip(size, free.shape, strict=True))] = free
    return _pick(case, centres, count, "negative", generator)


def _labelled_voxels(label: Label, size: Index) -> NDArray[np.int64]:
    """Labelled voxels in the patch that starts at each voxel, by a summed-volume table."""
    table = np.pad((label > 0).astype(np.int64), ((1, 0), (1, 0), (1, 0)))
    for axis, edge in enumerate(size):
        table = table.cumsum(axis)
        upper = np.take(table, range(edge, table.shape[axis]), axis)
        table = upper - np.take(table, range(table.shape[axis] - edge), axis)
    return table


def _background(case: Case, count: int, generator: np.random.Generator) -> Rows:
    empty = case.label == 0
    return _pick(case, empty if empty.any() else np.ones_like(empty), count, "background", generator)


def _pick(case: Case, mask: Mask, count: int, kind: str, generator: np.random.Generator) -> Rows:
    """Any of the voxels, one as likely as another; with supervoxels, one of these as likely as another."""
    voxels = np.argwhere(mask)
    if not len(voxels) or not count:
        return []
    if case.regions is None:
        chosen = voxels[generator.integers(len(voxels), size=count)]
    else:
        chosen = voxels[_by_region(case.regions[mask], count, generator)]
    return [_row(kind, _class(case.label[tuple(place)]), place) for place in chosen]


def _by_region(regions: NDArray[np.int32], count: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Places in `regions`, each in a region of its own, until every region had its turn."""
    order = np.argsort(regions, kind="stable")
    _, first, voxels = np.unique(regions[order], return_index=True, return_counts=True)
    rounds = -(-count // len(first))
    turns = np.concatenate([generator.permutation(len(first)) for _ in range(rounds)])[:count]
    return np.asarray(order[first[turns] + generator.integers(voxels[turns])])


def _viewed(
    rows: Rows, count: int, views: int, size: Index, shape: Sequence[int], generator: np.random.Generator
) -> Rows:
    """Each of the places as often as it takes to have `count` rows, moved at random where it has several."""
    if views == 1 or not rows:
        return rows
    several = [rows[number * len(rows) // count] for number in range(count)]
    limits = np.array(size) // SHIFT
    places = np.array([[row[axis] for axis in "zyx"] for row in several])
    places += generator.integers(-limits, limits + 1, size=places.shape)
    places = np.clip(places, 0, np.array(shape) - 1)
    return [row | _place(place) for row, place in zip(several, places, strict=True)]


def _row(kind: str, value: int, place: NDArray[np.int64]) -> dict[str, Any]:
    return {"kind": kind, "class": value, **_place(place)}


def _place(place: NDArray[np.int64]) -> dict[str, int]:
    return {axis: int(one) for axis, one in zip("zyx", place, strict=True)}


def _class(value: int) -> int:
    return 0 if value == UNKNOWN else int(value)
