import numpy as np
import pandas as pd
import pytest

from pipeline.metrics.bootstrap import interval, patient_numbers, patients_of


def test_the_interval_holds_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = interval(rng.normal(0.8, 0.1, 40))
        held += low <= 0.8 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.04)


def test_what_is_undefined_is_left_out_and_the_same_values_give_the_same_ends():
    values = np.array([0.7, 0.8, np.nan, 0.9])
    assert interval(values) == interval(np.array([0.7, 0.8, 0.9]))
    low, high = interval(values)
    assert 0.699 < low < 0.8 < high < 0.901


def test_of_one_value_nothing_can_be_said():
    assert interval(np.array([0.7, np.nan])) is None
    assert interval(np.array([])) is None


def test_scans_of_one_patient_are_drawn_together():
    values = np.array([0.7, 0.8, 0.9, 0.6, 0.75])
    often = np.repeat(values, 4)
    patient = np.repeat(np.arange(5), 4)
    assert interval(often, patient=patient) == pytest.approx(interval(values))
    low, high = interval(often)
    assert high - low < 0.6 * np.ptp(interval(values)), "as if there were twenty patients"
    assert interval(often[:4], patient=patient[:4]) is None


def test_a_case_without_a_patient_has_its_own():
    numbers = patient_numbers(["a", "b", "c", "d", "e"], {"a": "Eve", "c": "Eve", "d": "b"})
    assert numbers.tolist() == [0, 1, 0, 2, 3]


def test_a_case_is_of_its_patient_and_where_none_is_known_of_one_called_like_the_case():
    table = pd.DataFrame({"case": ["a", "b"], "patient": ["p", "p"]})
    assert patients_of(table) == {"a": "p", "b": "p"}
    assert patients_of(table[["case"]]) == {"a": "a", "b": "b"}
