"""What is done to label maps after a network, and when."""

import numpy as np
import pytest

from pipeline.inference.cleaning import Cleaning, adopt, candidates, clean, tried

ONE = (1.0, 1.0, 1.0)
NOTHING, LARGEST, HOLES = Cleaning(), Cleaning(largest=True), Cleaning(fill_holes=True)


def mask(*boxes, shape=(12, 12, 12)):
    made = np.zeros(shape, bool)
    for start, stop in boxes:
        made[start:stop, start:stop, start:stop] = True
    return made


def test_the_largest_piece_stays_alone():
    assert np.array_equal(LARGEST.of(mask((0, 2), (4, 8), (10, 11)), ONE), mask((4, 8)))


def test_pieces_that_touch_at_an_edge_alone_are_two():
    made = np.zeros((4, 4, 4), bool)
    made[0, 0, :3] = made[1, 1, :2] = True
    assert LARGEST.of(made, ONE).sum() == 3


@pytest.mark.parametrize(("minimum_ml", "kept"), [(0.001, 3), (0.009, 2), (0.02, 2), (1.0, 1)])
def test_pieces_below_a_volume_are_dropped_but_for_the_largest(minimum_ml, kept):
    made = mask((0, 2), (4, 8), (9, 12))
    # Of 8, 64 and 27 voxels of a thousandth of a millilitre; the largest stays whatever it is.
    after = Cleaning(minimum_ml=minimum_ml).of(made, ONE)
    expected = [mask((4, 8)), mask((4, 8), (9, 12)), made][kept - 1]
    assert np.array_equal(after, expected)


def test_volumes_are_of_voxels_as_they_lie_in_space():
    made = mask((0, 2), (4, 8))
    assert np.array_equal(Cleaning(minimum_ml=0.02).of(made, (3.0, 1.0, 1.0)), made)


def test_holes_are_filled_and_bays_are_not():
    made = mask((2, 9))
    hole, bay = (5, 5, 5), (2, 5, 5)
    made[hole] = made[bay] = False
    after = HOLES.of(made, ONE)
    assert after[hole]
    assert not after[bay]


@pytest.mark.parametrize("step", candidates(5.0))
def test_an_empty_mask_stays_empty(step):
    assert not step.of(mask(), ONE).any()


def test_what_another_label_fills_is_no_hole():
    classes = np.zeros((9, 9, 9), np.uint8)
    classes[1:8, 1:8, 1:8] = 1
    classes[4, 4, 4], classes[3, 3, 3] = 2, 0
    evidence = {"largest": False, "minimum_ml": 0.0, "fill_holes": True, "gain": 0.1, "cases": 3}
    clean(classes, {"outer": evidence}, ["outer", "inner"], ONE)
    assert classes[4, 4, 4] == 2
    assert classes[3, 3, 3] == 1


def test_a_label_that_nothing_is_said_of_is_left_alone():
    classes = mask((0, 2), (4, 8)).astype(np.uint8)
    before = classes.copy()
    clean(classes, {}, ["liver"], ONE)
    assert np.array_equal(classes, before)


def test_a_step_that_helps_every_case_is_taken():
    truth, found = mask((4, 8)), mask((0, 2), (4, 8))
    steps = candidates(0.01)
    dice = np.array([tried(truth, found, steps, ONE) for _ in range(6)])
    how = adopt(steps, dice)
    assert how is not None
    assert how["largest"]
    assert not how["fill_holes"]
    assert how["gain"] == pytest.approx(1 - 2 * 64 / (64 + 72), abs=1e-6)
    assert how["cases"] == 6


def test_a_step_that_helps_on_average_and_may_do_harm_is_not_taken():
    """The kidneys are one label: without the smaller piece most cases lose half of it."""
    steps = [NOTHING, LARGEST]
    gains = [0.4, -0.1, -0.1, -0.05, 0.0, 0.0]
    dice = np.array([[0.5, 0.5 + gain] for gain in gains])
    assert np.mean(gains) > 0
    assert adopt(steps, dice) is None


def test_many_cases_of_one_patient_speak_for_one():
    """Of three patients one was scanned eight times: of cases it looks sure, of patients not."""
    steps, gains = [NOTHING, LARGEST], np.array([0.1] * 8 + [-0.05, -0.05])
    dice = np.stack([np.full(10, 0.5), 0.5 + gains], axis=1)
    assert adopt(steps, dice) is not None
    assert adopt(steps, dice, np.array([0] * 8 + [1, 2])) is None


def test_pieces_holes_and_both_are_tried_in_the_order_in_which_they_do_least():
    assert [step.sentence for step in candidates(5.0)] == [
        "nothing is done",
        "pieces below 0.5 ml are dropped",
        "only the largest piece is kept",
        "holes are filled",
        "pieces below 0.5 ml are dropped, holes are filled",
        "only the largest piece is kept, holes are filled",
    ]
    assert len(candidates(0.0)) == 4, "of a label of no known volume no piece is too small"


@pytest.mark.parametrize(("gain", "taken"), [(5e-5, False), (2e-4, True)])
def test_a_label_map_is_not_touched_for_next_to_nothing(gain, taken):
    dice = np.array([[0.8, 0.8 + gain]] * 6)
    assert (adopt([NOTHING, LARGEST], dice) is not None) == taken


def test_of_two_that_do_the_same_the_first_is_taken():
    steps = [NOTHING, LARGEST, Cleaning(largest=True, fill_holes=True)]
    how = adopt(steps, np.array([[0.8, 0.9, 0.9]] * 4))
    assert how is not None
    assert not how["fill_holes"]


def test_what_nobody_knows_the_truth_of_does_not_count():
    truth, found = mask((4, 8)), mask((0, 2), (4, 8))
    assert tried(truth, found, [NOTHING], ONE, unknown=mask((0, 2))) == [1.0]


@pytest.mark.parametrize("cases", [0, 1])
def test_of_too_few_cases_nothing_follows(cases):
    assert adopt([NOTHING, LARGEST], np.full((cases, 2), [0.1, 0.9])) is None
