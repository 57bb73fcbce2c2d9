import math

import numpy as np
import pytest

from pipeline.metrics.overlap import dice, overlap


def mask(*voxels):
    found = np.zeros((2, 2, 3), bool)
    found.ravel()[list(voxels)] = True
    return found


def test_overlap_by_hand():
    found = overlap(mask(0, 1, 2, 3), mask(2, 3, 4, 5, 6, 7))
    assert (found.truth, found.predicted) == (4, 6)
    assert found.dice == pytest.approx(2 * 2 / 10)
    assert found.iou == pytest.approx(2 / 8)
    assert found.sensitivity == pytest.approx(2 / 4)
    assert found.precision == pytest.approx(2 / 6)
    assert found.volume_error == pytest.approx(6 / 4 - 1)


def test_equal_masks_overlap_wholly():
    found = overlap(mask(1, 5), mask(1, 5))
    assert (found.dice, found.iou, found.sensitivity, found.precision, found.volume_error) == (1, 1, 1, 1, 0)


def test_masks_apart_overlap_in_nothing():
    found = overlap(mask(0, 1), mask(2))
    assert (found.dice, found.iou, found.sensitivity, found.precision) == (0, 0, 0, 0)
    assert found.volume_error == pytest.approx(-0.5)


def test_two_empty_masks_leave_nothing_to_measure():
    found = overlap(mask(), mask())
    figures = (found.dice, found.iou, found.sensitivity, found.precision, found.volume_error)
    assert all(math.isnan(figure) for figure in figures)
    assert (found.truth, found.predicted) == (0, 0)


def test_a_missed_organ_has_no_precision():
    found = overlap(mask(0, 1), mask())
    assert (found.dice, found.iou, found.sensitivity, found.volume_error) == (0, 0, 0, -1)
    assert math.isnan(found.precision)


def test_an_invented_organ_has_no_sensitivity_and_no_volume_error():
    found = overlap(mask(), mask(0, 1))
    assert (found.dice, found.iou, found.precision) == (0, 0, 0)
    assert math.isnan(found.sensitivity)
    assert math.isnan(found.volume_error)


def test_dice_of_one_value_of_two_label_maps():
    truth = np.array([[[0, 1, 1, 2, 2, 2]]], np.uint8)
    predicted = np.array([[[1, 1, 2, 2, 2, 0]]], np.int64)
    assert dice(truth, predicted, 1) == pytest.approx(2 * 1 / 4)
    assert dice(truth, predicted, 2) == pytest.approx(2 * 2 / 6)
    assert math.isnan(dice(truth, predicted, 7))
