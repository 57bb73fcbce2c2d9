import json

import numpy as np
import pandas as pd
import pytest

from pipeline.validation.drift import bins, drift, fingerprint, stability_index, verdict
from pipeline.volumes.facts import BINS, HISTOGRAM

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
    for unmeasured in (None, ""):
        bare = table().drop(columns=["scanner"]).assign(histogram=unmeasured)
        known, unknown = fingerprint(table(), PLAN), fingerprint(bare, PLAN)
        for now, then in ((unknown, unknown), (known, unknown), (unknown, known)):
            rows = {row.what: row for row in drift(now, then)}
            assert {row.verdict for row in rows.values()} == {"none"}
            assert rows["HU histogram"].distance == rows["scanner"].distance == 0


def test_the_stability_index_is_symmetric_and_finite():
    one, other = np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.2, 0.6])
    assert stability_index(one, other) == pytest.approx(stability_index(other, one))
    assert np.isfinite(stability_index(one, other))
    assert stability_index(one, one) == 0
    # Of an empty share, a thousandth is reckoned with.
    by_hand = 0.5 * np.log(2) + (0.001 - 0.5) * np.log(0.001 / 0.5)
    assert stability_index(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(by_hand)


def spaced(millimetres, cases):
    """The fingerprint of data all of whose slices are as far apart."""
    found = fingerprint(table(), PLAN)
    return found | {"cases": cases, "spacing": found["spacing"] | {"z": [millimetres] * 21}}


@pytest.mark.parametrize(
    ("change", "now", "then", "found"),
    [
        (0.03, 1000, 1000, "none"),
        (0.05, 1000, 1000, "some"),
        (0.12, 1000, 1000, "strong"),
        (0.05, 4, 1000, "none"),
        (0.05, 1000, 4, "none"),
        (0.12, 4, 1000, "some"),
        (0.12, 1000, 4, "some"),
        (0.12, 4, 4, "some"),
        (0.09, 4, 4, "none"),
    ],
)
def test_a_shift_is_judged_by_the_spread_and_by_what_chance_does_to_so_few_cases(change, now, then, found):
    row = drift(spaced(float(np.exp(change)), now), spaced(1.0, then))[0]
    assert row.distance == pytest.approx(change / 0.1, abs=1e-4), "values that are all alike are given 10 %"
    assert row.verdict == found


@pytest.mark.parametrize(
    ("share", "cases", "found"),
    [
        (0.65, 10**6, "none"),
        (0.66, 10**6, "some"),
        (0.73, 10**6, "some"),
        (0.75, 10**6, "strong"),
        (0.7, 10, "none"),
        (0.8, 10, "some"),
        (0.9, 10, "strong"),
    ],
)
def test_scanners_are_judged_by_their_shares_and_by_how_many_cases_tell_them(share, cases, found):
    then = fingerprint(table(), PLAN)
    counts = {"One": round(share * cases), "Two": round((1 - share) * cases)}
    even = then | {"scanners": {"One": cases // 2, "Two": cases // 2}}
    assert drift(then | {"scanners": counts}, even)[-1].verdict == found


def test_where_the_histogram_changed_most_is_told_by_the_middle_of_a_bin():
    low, high = HISTOGRAM["CT"]
    edges = np.linspace(low, high, 17)
    np.testing.assert_allclose(bins("CT"), (edges[1:] + edges[:-1]) / 2)
    then = fingerprint(table(), PLAN) | {"histogram": [0.5, 0.5] + [0.0] * 14}
    now = then | {"histogram": [0.5, 0.1, 0.4] + [0.0] * 13}
    (row,) = (row for row in drift(now, then) if row.what == "HU histogram")
    middle = (edges[1] + edges[2]) / 2
    assert row.sentence == (
        f"HU histogram: most changed near {middle:.4g}: 10.0% of the voxels, they were 50.0%"
    )


def test_volumes_are_those_of_the_cases_that_have_the_organ_however_small():
    found = fingerprint(table().assign(ml_spleen=[0.0, 0.5] * 30), PLAN)
    assert found["volumes"]["spleen"] == [0.5] * 21
    assert found["labelled"]["spleen"] == 30


def test_a_known_label_that_only_one_side_has_outlined_is_told_where_it_is_new():
    with_it, without = (fingerprint(cases, PLAN) for cases in (table(), table().assign(ml_spleen=0.0)))
    for now, then, found, lacks in ((with_it, without, "strong", "then"), (without, with_it, "none", "now")):
        row = next(row for row in drift(now, then) if row.what == "volume of spleen")
        assert (row.verdict, row.distance) == (found, 0)
        assert row.sentence == f"volume of spleen: no values {lacks}, nothing to compare"
