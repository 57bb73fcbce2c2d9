import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.labels import UNKNOWN
from pipeline.params import PatchesParams, Shares
from pipeline.sampling.boxes import patch_start
from pipeline.sampling.centres import Case, draw_centres, grid_centres, hard_range

SIZE = (6, 12, 10)
SHARES = Shares(foreground=0.5, negative=0.25, background=0.25)


def _label(*values: int) -> NDArray[np.uint8]:
    """Blocks of very different volumes, a class each, at one end of a volume (20, 40, 50)."""
    label = np.zeros((20, 40, 50), np.uint8)
    for number, value in enumerate(values):
        label[2 : 4 + 2 * number, 3 * number : 3 * number + 2, 1 : 3 + number] = value
    return label


def _draw(
    label: NDArray[np.uint8], count: int = 40, shares: Shares = SHARES, seed: int = 0
) -> list[dict[str, Any]]:
    return _drawn(Case(label), count, seed=seed, shares=shares)


def _drawn(
    case: Case, count: int = 40, balance: Sequence[float] = (), seed: int = 0, **params: Any
) -> list[dict[str, Any]]:
    params = {"per_case": count, "shares": SHARES} | params
    return draw_centres(case, SIZE, PatchesParams(**params), balance, np.random.default_rng(seed))


def _kinds(rows: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["kind"] for row in rows))


def _at(label: NDArray[np.uint8], row: dict[str, Any]) -> int:
    return int(label[row["z"], row["y"], row["x"]])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 32, 100])
@pytest.mark.parametrize(
    "shares",
    [
        SHARES,
        Shares(),
        Shares(foreground=1.0, negative=0.0, background=0.0),
        Shares(foreground=0.0, negative=1.0, background=0.0),
        Shares(foreground=0.0, negative=0.0, background=1.0),
        Shares(foreground=1 / 3, negative=1 / 3, background=1 / 3),
        Shares(foreground=0.29, negative=0.42, background=0.29),
    ],
)
def test_shares_come_out_as_asked(shares: Shares, count: int) -> None:
    kinds = _kinds(_draw(_label(1, 2), count, shares))
    assert sum(kinds.values()) == count
    for kind, share in shares.model_dump().items():
        assert abs(kinds.get(kind, 0) - share * count) < 1


def test_every_class_is_drawn_as_often_as_every_other() -> None:
    label = _label(1, 2, 5)
    rows = [row for row in _draw(label, 60) if row["kind"] == "foreground"]
    assert Counter(row["class"] for row in rows) == {1: 10, 2: 10, 5: 10}
    assert all(_at(label, row) == row["class"] for row in rows)


def test_no_class_is_left_out_where_there_are_more_than_turns() -> None:
    label = _label(*range(1, 11))
    drawn = Counter(
        row["class"]
        for seed in range(200)
        for row in _draw(label, 8, seed=seed)
        if row["kind"] == "foreground"
    )
    assert drawn.keys() == set(range(1, 11))
    assert max(drawn.values()) < 2 * min(drawn.values())


def test_centres_are_spread_over_all_voxels_of_a_class() -> None:
    label = np.zeros((20, 40, 50), np.uint8)
    label[5:10, 5:10, 5:10] = 1
    rows = _draw(label, 4000, Shares(foreground=1.0, negative=0.0, background=0.0))
    assert len({(row["z"], row["y"], row["x"]) for row in rows}) == 125


def test_a_negative_patch_holds_no_labelled_voxel_and_lies_within_the_volume() -> None:
    label = _label(1, 2)
    rows = [row for row in _draw(label, 200) if row["kind"] == "negative"]
    assert len(rows) == 50
    for row in rows:
        start = patch_start((row["z"], row["y"], row["x"]), SIZE, (20, 40, 50))
        box = label[tuple(slice(low, low + edge) for low, edge in zip(start, SIZE, strict=True))]
        assert box.shape == SIZE
        assert not box.any()
        assert row["class"] == 0


def test_every_place_for_a_negative_patch_is_found() -> None:
    label = np.ones((20, 40, 50), np.uint8)
    label[4 : 4 + 7, 8 : 8 + 12, 20 : 20 + 11] = 0
    rows = [row for row in _draw(label, 400) if row["kind"] == "negative"]
    places = {(row["z"], row["y"], row["x"]) for row in rows}
    assert places == {(z, 14, x) for z in (7, 8) for x in (25, 26)}


def test_a_background_centre_is_unlabelled() -> None:
    label = _label(1, 2)
    rows = [row for row in _draw(label, 200) if row["kind"] == "background"]
    assert all(_at(label, row) == row["class"] == 0 for row in rows)


def test_without_labels_background_takes_the_place_of_foreground() -> None:
    assert _kinds(_draw(np.zeros((20, 40, 50), np.uint8))) == {"negative": 10, "background": 30}


@pytest.mark.parametrize(
    "label",
    [
        np.tile(np.arange(2, dtype=np.uint8), 20 * 40 * 25).reshape(20, 40, 50),
        _label(1, 2)[:5],
        _label(1, 2)[:, :, :9],
    ],
    ids=["labelled everywhere", "thinner than a patch", "narrower than a patch"],
)
def test_without_room_for_a_negative_background_takes_its_place(label: NDArray[np.uint8]) -> None:
    assert _kinds(_draw(label)) == {"foreground": 20, "background": 20}


def test_a_case_that_is_all_organ_still_gives_its_patches() -> None:
    rows = _draw(np.full((20, 40, 50), 3, np.uint8))
    assert len(rows) == 40
    assert _kinds(rows)["foreground"] == 20


def test_a_case_of_one_patch_gives_it() -> None:
    label = np.zeros(SIZE, np.uint8)
    rows = [row for row in _draw(label) if row["kind"] == "negative"]
    assert {(row["z"], row["y"], row["x"]) for row in rows} == {(3, 6, 5)}


def test_the_same_generator_draws_the_same_and_another_draws_others() -> None:
    label = _label(1, 2)
    assert _draw(label, seed=1) == _draw(label, seed=1)
    assert _draw(label, seed=1) != _draw(label, seed=2)


def test_what_is_left_over_goes_to_the_share_that_misses_most() -> None:
    shares = Shares(foreground=0.85, negative=0.0, background=0.15)
    assert _kinds(_draw(_label(1, 2), 2, shares)) == {"foreground": 2}


def test_a_row_is_made_of_plain_numbers() -> None:
    for row in _draw(_label(1)):
        assert list(row) == ["kind", "class", "z", "y", "x"]
        assert all(type(row[name]) is int for name in ("class", "z", "y", "x"))


ALL_HARD = Shares(foreground=0.4, negative=0.1, background=0.1, hard=0.4)


@pytest.mark.parametrize("count", [10, 40, 333])
def test_hard_negatives_come_in_the_share_that_was_asked_for_and_from_where(count: int) -> None:
    label = _label(1, 2)
    hard = np.zeros(label.shape, bool)
    hard[10:12, 30:35, 20:30] = True
    rows = _drawn(Case(label, hard), count, shares=ALL_HARD)
    kinds = _kinds(rows)
    assert sum(kinds.values()) == count
    for kind, share in ALL_HARD.model_dump().items():
        assert abs(kinds[kind] - share * count) < 1
    assert all(hard[row["z"], row["y"], row["x"]] for row in rows if row["kind"] == "hard")


@pytest.mark.parametrize("hard", [None, np.zeros((20, 40, 50), bool)])
def test_where_nothing_is_hard_background_takes_its_place(hard: NDArray[np.bool_] | None) -> None:
    kinds = _kinds(_drawn(Case(_label(1, 2), hard), shares=ALL_HARD))
    assert kinds == {"foreground": 16, "negative": 4, "background": 20}


@pytest.mark.parametrize("balance", [(3.0, 1.0, 0.0), (0.2, 0.2, 0.6)])
def test_classes_come_in_the_shares_of_their_balance(balance: tuple[float, ...]) -> None:
    label = _label(1, 2, 3)
    rows = _drawn(Case(label), 160, balance)
    drawn = Counter(row["class"] for row in rows if row["kind"] == "foreground")
    for value, weight in enumerate(balance, start=1):
        assert abs(drawn[value] - 80 * weight / sum(balance)) < 1


def test_of_a_case_only_the_classes_that_are_there_share_the_centres() -> None:
    rows = _drawn(Case(_label(0, 2)), 80, (3.0, 1.0))
    assert Counter(row["class"] for row in rows if row["kind"] == "foreground") == {2: 40}
    assert _kinds(_drawn(Case(_label(1)), 80, (0.0, 1.0)))["background"] == 60


def test_a_voxel_nobody_looked_at_is_neither_foreground_nor_background() -> None:
    label = np.full((20, 40, 50), UNKNOWN, np.uint8)
    label[10] = 0
    label[10, 5:9, 5:9] = 1
    rows = _draw(label, 60)
    assert _kinds(rows) == {"foreground": 30, "background": 30}
    assert all(row["z"] == 10 for row in rows)


@pytest.mark.parametrize("views", [2, 3, 7])
def test_a_place_has_as_many_views_as_were_asked_for(views: int) -> None:
    label = np.zeros((20, 40, 50), np.uint8)
    label[8:10, 15:20, 20:25] = 1
    rows = _drawn(Case(label), 84, views=views, shares=Shares(foreground=1.0, negative=0.0, background=0.0))
    assert len(rows) == 84
    places = [(row["z"], row["y"], row["x"]) for row in rows]
    assert len(set(places)) > 84 / views
    for first in range(0, 84 - 84 % views, views):
        seen = np.array(places[first : first + views])
        assert (np.ptp(seen, axis=0) <= 2 * (np.array(SIZE) // 4)).all()
    # Moved, a patch holds the place still.
    nearest = [min(np.abs(np.array(place) - voxel).max() for voxel in np.argwhere(label)) for place in places]
    assert max(nearest) <= max(SIZE) // 4


def test_a_view_of_a_place_at_the_border_has_its_middle_in_the_volume() -> None:
    label = np.zeros((20, 40, 50), np.uint8)
    label[0, 0, 0] = label[19, 39, 49] = 1
    rows = _drawn(Case(label), 60, views=3, shares=Shares(foreground=1.0, negative=0.0, background=0.0))
    places = np.array([(row["z"], row["y"], row["x"]) for row in rows])
    assert (places >= 0).all()
    assert (places < label.shape).all()


@pytest.mark.parametrize("shape", [(20, 40, 50), (6, 12, 10), (4, 13, 31), (7, 100, 10)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_a_grid_covers_every_voxel_and_its_patches_overlap(shape: tuple[int, ...], overlap: float) -> None:
    label = np.zeros(shape, np.uint8)
    label[1] = 1
    covered = np.zeros(shape, int)
    rows = grid_centres(label, SIZE, overlap)
    starts = set()
    for row in rows:
        assert row["kind"] == "grid"
        assert row["class"] == _at(label, row)
        start = patch_start((row["z"], row["y"], row["x"]), SIZE, (shape[0], shape[1], shape[2]))
        starts.add(start)
        box = [slice(max(0, low), low + edge) for low, edge in zip(start, SIZE, strict=True)]
        covered[tuple(box)] += 1
    assert covered.min() >= 1
    assert len(starts) == len(rows)
    for axis, edge in enumerate(SIZE):
        along = sorted({start[axis] for start in starts})
        assert all(low + edge - high >= int(edge * overlap) for low, high in itertools.pairwise(along))


def test_what_looks_like_the_organ_has_the_intensities_of_its_middle() -> None:
    label = _label(1, 2)
    image = np.where(label > 0, 450.0, 0.0).astype(np.float32)
    image[label == 2] = np.linspace(400, 500, int((label == 2).sum()))
    low, high = hard_range(image, label) or (0.0, 0.0)
    assert 400 < low < 450 < high < 500
    assert hard_range(image, np.zeros_like(label)) is None
    evenly = np.arange(101, dtype=np.float32).reshape(1, 1, 101)
    assert hard_range(evenly, np.ones(evenly.shape, np.uint8)) == (5, 95)


def test_every_supervoxel_has_its_turn_before_one_has_two() -> None:
    label = np.ones((6, 12, 10), np.uint8)
    # Not in the order of their numbers, and of different sizes.
    regions = (np.arange(label.size).reshape(label.shape) ** 2 % 11).astype(np.int32)
    count = len(np.unique(regions))
    only = Shares(foreground=1.0, negative=0.0, background=0.0)
    for seed in range(5):
        rows = _drawn(Case(label, regions=regions), count, seed=seed, shares=only)
        assert len({int(regions[row["z"], row["y"], row["x"]]) for row in rows}) == count


def test_centres_follow_supervoxels_not_their_size() -> None:
    label = np.zeros((20, 40, 50), np.uint8)
    label[5:15, 5:25, 5:45] = 1
    regions = np.zeros(label.shape, np.int32)
    # One region holds nearly all of the organ, three hold a few voxels of it each.
    regions[5, 5:8, 5] = [1, 2, 3]
    only = Shares(foreground=1.0, negative=0.0, background=0.0)
    rows = _drawn(Case(label, regions=regions), 400, shares=only)
    drawn = Counter(int(regions[row["z"], row["y"], row["x"]]) for row in rows)
    assert drawn == {0: 100, 1: 100, 2: 100, 3: 100}
    assert all(_at(label, row) == 1 for row in rows)
    without = _drawn(Case(label), 400, shares=only)
    assert sum(regions[row["z"], row["y"], row["x"]] > 0 for row in without) < 10
