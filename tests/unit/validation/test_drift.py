import json

import numpy as np
import pandas as pd
import pytest

from pipeline.validation.drift import drift, fingerprint, stability_index, verdict
from pipeline.volumes.facts import BINS

PLAN = {"modality": "CT", "labels": {"liver": 1, "spleen": 2}}


def table(seed=0, cases=60, spacing=1.0, shift=0, liver=1500.0, scanner=("One", "Two")):
    """Accepted cases with soft tissue `shift` bins from its place."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(cases):
        shares = np.zeros(BINS)
        shares[24 + shift : 30 + shift] = generator.dirichlet(np.full(6, 50.0))
        row = {f"spacing_{axis}": spacing * generator.uniform(0.8, 1.2) for axis in "zyx"}
        row |= {"ml_liver": liver * generator.lognormal(0, 0.2), "ml_spleen": 200.0 * (number % 2)}
        row |= {"histogram": json.dumps(list(shares)), "scanner": scanner[number % len(scanner)]}
        rows.append(row)
    return pd.DataFrame(rows)


def compared(**now):
    """Verdict by subject, of changed data beside others."""
    rows = drift(fingerprint(table(seed=1, **now), PLAN), fingerprint(table(), PLAN))
    return {row.what: row.verdict for row in rows}


def test_a_fingerprint_is_json_and_holds_no_case():
    found = fingerprint(table(), PLAN)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["cases"] == 60
    assert found["scanners"] == {"One": 30, "Two": 30}
    assert found["labelled"] == {"liver": 60, "spleen": 30}
    assert sum(found["histogram"]) == pytest.approx(1, abs=1e-4)


def test_data_that_are_the_same_have_not_drifted():
    assert set(compared().values()) == {"none"}
    found = fingerprint(table(), PLAN)
    assert all(row.distance == 0 for row in drift(found, found))
    assert verdict(drift(found, found)) == "none"


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"spacing": 2.0}, "spacing along z"),
        ({"shift": 12}, "HU histogram"),
        ({"liver": 3000.0}, "volume of liver"),
        ({"scanner": ("Three",)}, "scanner"),
    ],
)
def test_what_has_changed_is_told_and_nothing_else(change, subject):
    found = compared(**change)
    assert found.pop(subject) == "strong"
    assert {what for what, grade in found.items() if grade != "none"} <= {
        "spacing along y",
        "spacing along x",
    }


def test_a_moderate_change_is_some():
    assert compared(liver=1500.0 * 1.15)["volume of liver"] == "some"


def test_of_few_cases_chance_is_not_taken_for_drift():
    assert set(compared(cases=4).values()) == {"none"}


def test_a_new_scanner_is_named():
    rows = drift(fingerprint(table(scanner=("One", "New")), PLAN), fingerprint(table(), PLAN))
    assert rows[-1].sentence == "scanner: never seen before: New"
    rows = drift(fingerprint(table(scanner=("One",)), PLAN), fingerprint(table(), PLAN))
    assert rows[-1].sentence == "scanner: 1 kinds, none of them new"


def test_another_modality_is_drift_enough():
    now = fingerprint(table(), PLAN | {"modality": "MR"})
    (row,) = drift(now, fingerprint(table(), PLAN))
    assert row.verdict == "strong"


def test_a_new_label_is_drift_and_an_unknown_one_is_none():
    then = fingerprint(table(), {"modality": "CT", "labels": {"liver": 1}})
    rows = {row.what: row for row in drift(fingerprint(table(), PLAN), then)}
    assert rows["volume of spleen"].verdict == "strong"
    absent = fingerprint(table().assign(ml_spleen=0.0), PLAN)
    rows = {row.what: row for row in drift(absent, absent)}
    assert rows["volume of spleen"].verdict == "none"


def test_a_label_that_the_model_knows_and_the_data_no_longer_have_is_strong():
    then = fingerprint(table(), PLAN)
    now = then | {"volumes": {}, "labelled": {}}
    told = {row.sentence for row in drift(now, then) if row.verdict == "strong"}
    assert told == {f"{name} is no label any more" for name in PLAN["labels"]}


def test_scanners_that_no_header_says_are_not_told_as_one_kind():
    unsaid = fingerprint(table(scanner=("",)), PLAN)
    (row,) = (row for row in drift(unsaid, unsaid) if row.what == "scanner")
    assert (row.verdict, row.sentence) == ("none", "scanner: not known, nothing to compare")


def test_tables_without_histograms_or_scanners_can_be_compared():
    bare = table().drop(columns=["scanner"]).assign(histogram=None)
    known, unknown = fingerprint(table(), PLAN), fingerprint(bare, PLAN)
    for now, then in ((unknown, unknown), (known, unknown), (unknown, known)):
        assert {row.verdict for row in drift(now, then)} == {"none"}


def test_the_stability_index_is_symmetric_and_finite():
    one, other = np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.2, 0.6])
    assert stability_index(one, other) == pytest.approx(stability_index(other, one))
    assert np.isfinite(stability_index(one, other))
    assert stability_index(one, one) == 0
