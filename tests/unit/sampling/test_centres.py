from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.params import Shares
from pipeline.sampling.boxes import patch_start
from pipeline.sampling.centres import draw_centres

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
    return draw_centres(label, SIZE, shares, count, np.random.default_rng(seed))


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


def test_a_row_is_made_of_plain_numbers() -> None:
    for row in _draw(_label(1)):
        assert list(row) == ["kind", "class", "z", "y", "x"]
        assert all(type(row[name]) is int for name in ("class", "z", "y", "x"))
