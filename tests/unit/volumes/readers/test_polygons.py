from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from pipeline.volumes.readers.polygons import fill

SHAPE = (12, 9, 3)
SQUARE = np.array([[1.5, 1.5], [6.5, 1.5], [6.5, 5.5], [1.5, 5.5]])


def _fill(*polygons: Any, planes: Any = None, shape: tuple[int, int, int] = SHAPE) -> NDArray[np.bool_]:
    lengths = [len(polygon) for polygon in polygons]
    starts = np.cumsum([0, *lengths[:-1]])
    return fill(np.concatenate(polygons).astype(float), starts, np.array(planes or [0] * len(lengths)), shape)


def _expected(*polygons: Any) -> NDArray[np.bool_]:
    """Plane 0 by another program's test of points, in (A, B)."""
    centres = np.stack(np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.zeros(len(centres), bool)
    for polygon in polygons:
        inside ^= Outline(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(centres)
    return inside.reshape(SHAPE[:2])


def test_pixels_whose_centre_is_inside_are_filled() -> None:
    filled = _fill(SQUARE)
    assert filled.shape == SHAPE
    assert filled.flags.f_contiguous
    assert filled.sum() == filled[2:7, 2:6, 0].sum() == 20


@pytest.mark.parametrize("walk", [SQUARE, SQUARE[::-1], np.roll(SQUARE, 2, axis=0)])
def test_it_does_not_matter_where_and_which_way_an_outline_is_walked(walk: NDArray[np.float64]) -> None:
    assert np.array_equal(_fill(walk), _fill(SQUARE))


def test_a_polygon_within_another_is_a_hole_and_one_within_that_an_island() -> None:
    outer, hole, island = (
        np.array([4, 4]) + size * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) for size in (3.5, 2.5, 0.5)
    )
    filled = _fill(outer, hole, island)[..., 0]
    assert filled.sum() == 49 - 25 + 1
    assert filled[4, 4]
    assert not filled[4, 3]


@pytest.mark.parametrize("slant", [0.0, 0.37, 1 / 3])
def test_a_hole_joined_to_the_outline_by_a_channel_is_a_hole(slant: float) -> None:
    outer = np.array([[0.5, 0.5], [7.5, 0.5], [7.5, 7.5], [0.5, 7.5]])
    hole = np.array([[2.5, 2.5 + slant], [2.5, 4.5], [4.5, 4.5], [4.5, 2.5]])
    keyhole = np.vstack([outer, outer[:1], hole, hole[:1]])
    assert np.array_equal(_fill(keyhole), _fill(outer, hole))


def test_neighbours_that_share_an_edge_through_centres_share_no_pixel_and_leave_none_out() -> None:
    corners = np.array([[0, 0], [4, 0], [4, 8], [0, 8]])
    left, right = _fill(corners), _fill(corners + np.array([4, 0]))
    below, above = (
        _fill(np.array([[0, 0], [8, 0], [8, 3], [0, 3]])),
        _fill(np.array([[0, 3], [8, 3], [8, 8], [0, 8]])),
    )
    assert not (left & right).any()
    assert not (below & above).any()
    assert np.array_equal(left | right, below | above)
    assert (left | right).sum() == 64


def test_every_polygon_is_drawn_on_its_plane() -> None:
    filled = _fill(SQUARE, SQUARE + 1, planes=[2, 0])
    assert np.array_equal(filled[..., 2], _fill(SQUARE)[..., 0])
    assert np.array_equal(filled[..., 0], _fill(SQUARE + 1)[..., 0])
    assert not filled[..., 1].any()


@pytest.mark.parametrize("shift", [(-4, 0), (8, 0), (0, -4), (0, 6), (-4, 6), (1e5, 1e5), (-1e9, 0)])
def test_what_lies_beyond_the_array_is_cut_off(shift: tuple[float, float]) -> None:
    assert np.array_equal(_fill(SQUARE + shift)[..., 0], _expected(SQUARE + shift))


def test_an_outline_around_the_whole_array_fills_it() -> None:
    assert _fill((SQUARE - 4) * 1000)[..., 0].all()


@pytest.mark.parametrize(
    "flat", [[[1, 1], [5, 1], [9, 1]], [[1, 1], [1, 5], [1, 7]], [[2, 2], [2, 2], [2, 2]]]
)
def test_a_polygon_without_area_fills_nothing(flat: list[list[float]]) -> None:
    assert not _fill(np.array(flat)).any()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-400, 1600), st.integers(-400, 1300)), min_size=3, max_size=9),
        min_size=1,
        max_size=4,
    )
)
def test_any_polygons_are_filled_as_another_program_tests_points(
    corners: list[list[tuple[int, int]]],
) -> None:
    # Hundredths off the centres: no centre lies on an edge by more than rounding.
    polygons = [np.array(each) / 100 + (0.00137, 0.00271) for each in corners]
    filled, expected = _fill(*polygons)[..., 0], _expected(*polygons)
    differing = np.argwhere(filled != expected)
    assert all(_distance(point, polygons) < 1e-6 for point in differing)


def _distance(point: NDArray[Any], polygons: list[NDArray[np.float64]]) -> float:
    """From a point to the nearest edge."""
    nearest = np.inf
    for polygon in polygons:
        start, along = polygon, np.roll(polygon, -1, axis=0) - polygon
        square = np.maximum((along**2).sum(axis=1), 1e-30)
        share = np.clip(((point - start) * along).sum(axis=1) / square, 0, 1)
        nearest = min(nearest, float(np.linalg.norm(start + share[:, None] * along - point, axis=1).min()))
    return nearest
