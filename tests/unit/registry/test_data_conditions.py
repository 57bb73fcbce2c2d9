import pytest

from pipeline.params import RegisterParams
from pipeline.registry.data_conditions import data_conditions, drift_between, waits_for_drift

OF_DATA = {
    "cases": 40,
    "modality": "CT",
    "spacing": {axis: [1.0] * 3 for axis in "zyx"},
    "histogram": [],
    "volumes": {"liver": [1400.0, 1500.0, 1600.0]},
    "labelled": {"liver": 40},
    "scanners": {"One": 40},
}


@pytest.mark.parametrize(
    ("verdict", "on_drift", "waits"),
    [
        ("strong", "approve", True),
        ("some", "approve", False),
        ("none", "approve", False),
        ("strong", "tell", False),
    ],
)
def test_a_person_is_asked_where_the_drift_is_strong_and_only_if_wanted(verdict, on_drift, waits):
    drifted, params = {"verdict": verdict, "found": []}, RegisterParams(on_drift=on_drift)
    assert waits_for_drift(drifted, params) is waits
    met, sentence = data_conditions(6, drifted, params)[-1]
    assert met is (False if waits else None)
    assert ("a person has to approve" in sentence) is waits


def test_where_nothing_is_known_of_the_champions_data_nobody_is_asked():
    params = RegisterParams(on_drift="approve")
    assert drift_between(OF_DATA, {}) is drift_between({}, OF_DATA) is None
    assert not waits_for_drift(None, params)
    assert [met for met, _ in data_conditions(6, None, params)] == [True]


def test_only_what_has_changed_is_told():
    found = drift_between(OF_DATA, OF_DATA | {"scanners": {"Other": 40}})
    assert found == {"verdict": "strong", "found": ["scanner: never seen before: One"]}
    same = drift_between(OF_DATA, OF_DATA)
    assert same == {"verdict": "none", "found": []}
    assert data_conditions(6, same, RegisterParams())[-1][1].endswith("none (nothing has changed).")
