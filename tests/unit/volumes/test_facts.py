import json

import numpy as np
import pytest

from pipeline.volumes.body import find_body, steps_for
from pipeline.volumes.facts import BINS, columns, image_hash, measure

SPACING = (3.0, 1.0, 1.0)
CLASSES = {"liver": 1, "spleen": 2, "tumour": 3}


@pytest.fixture
def image():
    """A body of water with lungs in it, on a table, in air."""
    image = np.full((20, 60, 80), -1000.0, np.float32)
    image += np.random.default_rng(0).normal(0, 5, image.shape).astype(np.float32)
    image[:, 10:50, 10:70] += 1000
    image[10:, 20:40, 20:40] -= 850
    image[:, 2:4, :] += 900
    return image


@pytest.fixture
def label():
    label = np.zeros((20, 60, 80), np.uint8)
    label[2:8, 15:25, 50:65] = 1
    label[2:6, 15:20, 15:20] = 2
    return label


def facts(image, label, **options):
    return measure(image, label, SPACING, CLASSES, **options)


def test_a_row_has_every_column_and_no_other(image, label):
    assert list(facts(image, label)) == columns(CLASSES)
    assert set(facts(image, label, modality="MR")) == set(columns(CLASSES))
    assert set(facts(image, np.zeros_like(label))) == set(columns(CLASSES))


def test_a_row_can_be_kept_as_json(image, label):
    row = facts(image, label)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_a_small_image_is_measured_whole(image, label):
    row = facts(image, label)
    assert (row["shape_z"], row["shape_y"], row["shape_x"]) == (20, 60, 80)
    assert (row["intensity_min"], row["intensity_max"]) == (image.min(), image.max())
    assert row["intensity_p99"] == pytest.approx(np.percentile(image, 99))
    assert row["fg_mean"] == pytest.approx(float(image[label > 0].mean()), abs=1e-3)
    assert row["fg_high"] == pytest.approx(float(np.percentile(image[label > 0], 99.5)))


def test_organs_are_counted_exactly(image, label):
    row = facts(image, label)
    assert row["voxels_liver"] == 900
    assert row["ml_liver"] == pytest.approx(2.7)
    assert (row["voxels_tumour"], row["ml_tumour"], row["hu_tumour"]) == (0, 0.0, None)


def test_an_organ_nobody_looked_for_has_no_volume_of_zero(image, label):
    row = facts(image, label, annotated=["liver", "spleen"])
    assert row["ml_tumour"] is None
    assert row["ml_liver"] == pytest.approx(2.7)


def test_what_is_there_has_its_volume_and_what_was_looked_for_and_is_absent_has_none(image, label):
    row = facts(image, label, annotated=["liver", "tumour"])
    assert row["ml_spleen"] == pytest.approx(4 * 5 * 5 * 0.003)
    assert row["ml_tumour"] == 0


def test_the_median_of_an_organ_is_its_own(image, label):
    image[label == 2] = 130
    row = facts(image, label)
    assert row["hu_spleen"] == 130
    assert row["hu_liver"] == pytest.approx(0, abs=1)


def test_pieces_are_found_and_the_largest_weighed(image, label):
    label[15:17, 15:20, 50:65] = 1
    row = facts(image, label)
    assert row["components_liver"] == 2
    assert row["largest_liver"] == pytest.approx(900 / 1050)
    assert (row["components_spleen"], row["largest_spleen"]) == (1, 1.0)


def test_a_thin_organ_in_a_large_box_stays_in_one_piece():
    label = np.zeros((160, 160, 160), np.uint8)
    steps = np.arange(160)
    label[steps, steps, steps] = 1
    row = measure(np.zeros(label.shape, np.float32), label, SPACING, {"cord": 1})
    assert (row["voxels_cord"], row["components_cord"], row["largest_cord"]) == (160, 1, 1.0)


def test_places_are_relative_to_the_body(image, label):
    row = facts(image, label)
    assert row["centre_liver_x"] == pytest.approx((57 - 10) / 59)
    assert row["centre_spleen_x"] == pytest.approx((17 - 10) / 59)
    assert row["centre_liver_z"] == pytest.approx(4.5 / 19)


def test_the_body_holds_the_lungs_and_not_the_table(image):
    body = find_body(image, SPACING)
    expected = np.zeros(image.shape, bool)
    expected[:, 10:50, 10:70] = True
    assert (body.mask == expected).all()
    assert body.share == pytest.approx(0.5)
    assert body.air_hu == pytest.approx(-1000, abs=1)


def test_lungs_cut_off_by_the_field_of_view_are_body(image):
    assert find_body(image[:, 20:40, 20:60], SPACING).mask.all()


def test_an_organ_beside_the_body_is_told(image, label):
    label[2:6, 52:58, 15:20] = 3
    row = facts(image, label)
    assert (row["inside_tumour"], row["inside_liver"]) == (0.0, 1.0)


def test_without_air_or_body_nothing_is_made_up(image, label):
    row = facts(np.zeros_like(image), label)
    assert (row["air_hu"], row["body_share"], row["inside_liver"]) == (None, 1.0, 1.0)
    row = facts(np.full_like(image, -1000), label)
    assert (row["body_share"], row["inside_liver"]) == (0.0, None)
    row = facts(image, label, modality="MR")
    assert (row["air_hu"], row["body_share"], row["inside_liver"]) == (None, None, None)


def test_an_organ_at_the_border_is_told(image, label):
    label[0:2, 15:25, 50:65] = 1
    assert facts(image, label)["touches_liver"] == pytest.approx(150 / 1200)
    assert facts(image, label)["touches_spleen"] == 0


def test_the_histogram_is_of_the_body(image, label):
    shares = json.loads(facts(image, label)["histogram"])
    assert len(shares) == BINS
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert shares[0] == 0
    water = int(1024 / (2524 / BINS))
    assert sum(shares[water - 1 : water + 2]) > 0.8
    assert sum(json.loads(facts(image, label, modality="MR")["histogram"])) == pytest.approx(1, abs=1e-4)


def test_one_image_has_one_hash_however_it_is_stored(image):
    whole = np.rint(image)
    assert image_hash(whole) == image_hash(whole.astype(np.int16).astype(np.float32))
    assert image_hash(whole) == image_hash(np.asfortranarray(whole))
    assert image_hash(np.zeros((2, 2, 2), np.float32)) == image_hash(-np.zeros((2, 2, 2), np.float32))
    assert image_hash(whole) != image_hash(whole + 1)
    assert image_hash(whole) != image_hash(whole[:-1])


def test_two_large_images_that_begin_alike_have_two_hashes(image, monkeypatch):
    monkeypatch.setattr("pipeline.volumes.facts.SAMPLE", 1000)
    other = image.copy()
    # Of every fifth voxel along each axis one.
    other[15, 40, 60] += 1
    assert image_hash(other) != image_hash(image)


def test_a_large_image_is_thinned_evenly_in_millimetres():
    assert steps_for((100, 512, 512), (3.0, 0.8, 0.8), 1_000_000) == (2, 4, 4)
    assert steps_for((20, 60, 80), SPACING, 1_000_000) == (1, 1, 1)
    assert steps_for((1, 1, 4096), (0.1, 0.1, 5.0), 64) == (1, 1, 64)


def test_facts_of_a_thinned_image_are_near_those_of_the_whole():
    shape = (60, 300, 300)
    image = np.random.default_rng(0).normal(-1000, 5, shape).astype(np.float32)
    image[:, 50:250, 50:250] += 1040
    label = np.zeros(shape, np.uint8)
    label[10:50, 100:200, 100:200] = 1
    row = measure(image, label, SPACING, {"liver": 1})
    assert row["body_share"] == pytest.approx(4 / 9, abs=0.01)
    assert row["air_hu"] == pytest.approx(-1000, abs=0.1)
    assert row["hu_liver"] == pytest.approx(40, abs=0.1)
    assert row["centre_liver_y"] == pytest.approx(0.5, abs=0.01)
    assert row["voxels_liver"] == 400_000
    assert row["components_liver"] == 1
