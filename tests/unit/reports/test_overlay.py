import io

import numpy as np
import pytest
from PIL import Image

from pipeline.labels import UNKNOWN
from pipeline.reports.overlay import COLOURS, display_window, legend, overlay_png, thumbnail_png

SHAPE = (20, 40, 60)
WINDOW = (-100.0, 300.0)


@pytest.fixture
def image():
    return np.full(SHAPE, -100, np.float32)


def draw(image, truth, prediction=None, spacing=(2.0, 1.0, 1.0), labels=None):
    png = overlay_png(image, truth, prediction, spacing, WINDOW, labels)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def box(*slices, value=1):
    label = np.zeros(SHAPE, np.uint8)
    label[slices] = value
    return label


def centre(picture, colour, columns):
    """Mean row and column, within `columns`, of the pixels near `colour`, legend left out."""
    part = picture[26:-34, columns]
    rows, found = np.nonzero(np.abs(part - colour).max(axis=2) < 40)
    return rows.mean() / part.shape[0], found.mean() / part.shape[1]


def panels(picture):
    """The columns of the three planes; the drawing is 300, 300 and 200 pixels wide."""
    return slice(8, 308), slice(316, 616), slice(624, 824)


def test_the_patients_right_front_and_head_are_where_radiologists_expect_them(image):
    # Canonical axes run to the head, the front and the right.
    truth = box(slice(15, 19), slice(30, 38), slice(48, 58))
    picture = draw(image, truth)
    axial, coronal, sagittal = panels(picture)
    row, column = centre(picture, COLOURS[0], axial)
    assert row < 0.5  # the front is at the top
    assert column < 0.5  # the right is at the left
    row, column = centre(picture, COLOURS[0], coronal)
    assert row < 0.5  # the head is at the top
    assert column < 0.5
    row, column = centre(picture, COLOURS[0], sagittal)
    assert row < 0.5
    assert column < 0.5  # the front is at the left


@pytest.mark.parametrize(("spacing", "height"), [((1.0, 1.0, 1.0), 100), ((3.0, 1.0, 1.0), 300)])
def test_millimetres_are_as_long_in_every_direction(image, spacing, height):
    image[:] = 300
    picture = draw(image, np.zeros(SHAPE, np.uint8), spacing=spacing)
    white = (picture > 250).all(axis=2)
    coronal = white[:, 400:600]
    rows = np.nonzero(coronal.mean(axis=1) > 0.9)[0]
    assert abs(len(rows) - height) <= 2


def test_truth_is_a_line_and_prediction_an_area(image):
    labels = {"organ": 1}
    inside = box(slice(5, 15), slice(10, 30), slice(15, 45))
    nothing = np.zeros(SHAPE, np.uint8)
    line = draw(image, inside, nothing, labels=labels)
    area = draw(image, nothing, inside, labels=labels)
    middle = (slice(110, 130), slice(150, 170))
    assert line[middle].max() < 20
    assert area[middle][..., 0].min() > 60
    full = np.abs(line[26:-34] - COLOURS[0]).max(axis=2) < 10
    assert full.any()
    assert not (np.abs(area[26:-34] - COLOURS[0]).max(axis=2) < 10).any()


def test_each_plane_shows_the_slice_with_most_of_the_labels(image):
    truth = box(slice(2, 3), slice(18, 22), slice(28, 32))
    truth[12, 5:35, 10:50] = 1
    image[12] = 300
    picture = draw(image, truth)
    axial = picture[100:140, 290:306]
    assert axial.min() > 250


def test_a_slice_that_nobody_looked_at_is_not_shown_for_one_with_labels(image):
    truth = box(slice(8, 18), slice(20, 36), slice(10, 50))
    truth[2] = UNKNOWN
    picture = draw(image, truth, truth, labels={"liver": 1})
    axial, *_ = panels(picture)
    assert (np.abs(picture[26:-34, axial] - COLOURS[0]).max(axis=2) < 40).any()


def test_colours_go_by_value_and_the_legend_names_them(image):
    truth = box(slice(5, 15), slice(10, 30), slice(40, 55), value=5)
    both = draw(image, truth, labels={"late": 5, "early": 2})
    assert (np.abs(both[26:-34] - COLOURS[1]).max(axis=2) < 10).any()
    renamed = draw(image, truth, labels={"late": 5, "other": 2})
    assert (both[-30:] != renamed[-30:]).any()
    assert (both[:-34] == renamed[:-34]).all()


def test_the_same_case_gives_the_same_bytes(image):
    truth = box(slice(5, 15), slice(10, 30), slice(15, 45))
    first, second = (overlay_png(image, truth, truth, (2, 1, 1), WINDOW) for _ in range(2))
    assert first == second


def test_more_labels_than_colours_and_values_that_are_no_numbers_are_drawn(image):
    image[0] = np.nan
    truth = np.zeros(SHAPE, np.uint8)
    for value in range(1, 16):
        truth[5:15, 10:30, value * 3 : value * 3 + 3] = value
    picture = draw(image, truth)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 15


def test_a_ct_is_shown_around_its_clip_and_an_mr_by_what_it_holds():
    assert display_window(np.zeros(SHAPE, np.float32), "CT", (0.0, 200.0)) == (-100.0, 300.0)
    ramp = np.linspace(0, 1000, 20 * 40 * 60, dtype=np.float32).reshape(SHAPE)
    low, high = display_window(ramp, "MR", (-5.0, 5.0))
    assert low == pytest.approx(5, abs=1)
    assert high == pytest.approx(995, abs=1)


def test_a_thumbnail_shows_the_three_planes_small_and_in_the_colours_of_the_legend(image):
    truth = box(slice(5, 15), slice(10, 30), slice(20, 40), value=2)
    labels = {"liver": 1, "spleen": 2}
    png = thumbnail_png(image, truth, (2.0, 1.0, 1.0), WINDOW, labels)
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    # Of 60, 60 and 40 by 40 mm; the longest edge of a plane is 160 pixels.
    assert picture.size == (160 + 160 + 107 + 2 * 3, 107)
    assert legend(labels) == [("liver", COLOURS[0]), ("spleen", COLOURS[1])]
    found = np.asarray(picture).reshape(-1, 3).astype(int)
    assert (np.abs(found - COLOURS[1]).max(axis=1) < 40).any()
    assert not (np.abs(found - COLOURS[0]).max(axis=1) < 40).any()
    assert len(png) < 20_000
    assert png == thumbnail_png(image, truth, (2.0, 1.0, 1.0), WINDOW, labels)
