import numpy as np
import pandas as pd
import pytest

from pipeline.params import ValidateParams
from pipeline.validation.checks import usual_volume
from pipeline.validation.judge import judge_cases, judge_table

PLAN = {"modality": "CT", "labels": {"liver": 1, "spleen": 2}, "spacing": [3.0, 1.0, 1.0]}


@pytest.fixture
def cases(tmp_path):
    """Ten flawless cases, whose volumes are there."""
    rows = []
    for number in range(10):
        row = {"case": f"case_{number}", "patient": f"p{number}", "status": "accepted"}
        row |= {"reason": "", "remedy": "", "key": f"key{number}"}
        row |= {f"shape_{axis}": 64 for axis in "zyx"}
        row |= {"spacing_z": 3.0, "spacing_y": 0.8, "spacing_x": 0.8}
        row |= {"intensity_min": -1000.0, "intensity_max": 900.0}
        row |= {"ml_liver": 1500.0 + 20 * number, "ml_spleen": 200.0 + 3 * number}
        rows.append(row)
        (tmp_path / f"case_{number}.b2nd").touch()
    return pd.DataFrame(rows)


def judge(cases, volumes, plan=PLAN, **params):
    """The findings of each check that has any."""
    verdicts = judge_cases("abdomen", cases, plan, ValidateParams(**params), volumes)
    return {verdict.check.name: verdict.findings for verdict in verdicts if verdict.findings}


def test_flawless_cases_pass_every_check(cases, tmp_path):
    assert judge(cases, tmp_path) == {}


@pytest.mark.parametrize(
    ("column", "value", "check", "severity", "told"),
    [
        ("spacing_z", 12.5, "spacing_z", "error", "12.5 mm along z"),
        ("spacing_x", 0.01, "spacing_x", "error", "0.01 mm along x"),
        ("spacing_y", 4.5, "fine_y", "warning", "4.5 mm along y"),
        ("shape_z", 7, "shape_z", "error", "7 voxels along z"),
        ("intensity_min", 900.0, "contrast", "error", "every voxel of the image is 900"),
        ("intensity_max", np.nan, "complete", "error", "1 of its measurements"),
        ("key", "key2", "content_unique", "error", "copy of case_2"),
        ("intensity_min", -80.0, "air", "warning", "-80 HU"),
        ("ml_spleen", 0.0, "present_spleen", "warning", "spleen is absent"),
        ("ml_liver", 90.0, "volume_liver", "warning", "liver has 90 ml"),
        ("ml_liver", 15000.0, "volume_liver", "warning", "liver has 1.5e+04 ml"),
    ],
)
def test_a_flaw_is_found_in_its_case_alone(cases, tmp_path, column, value, check, severity, told):
    cases.loc[6, column] = value
    verdicts = judge_cases("abdomen", cases, PLAN, ValidateParams(), tmp_path)
    verdict = next(verdict for verdict in verdicts if verdict.check.name == check)
    assert [finding.case for finding in verdict.findings] == ["case_6"]
    assert told in verdict.findings[0].reason
    assert verdict.findings[0].remedy
    assert verdict.check.severity == severity


def test_a_missing_volume_is_found(cases, tmp_path):
    (tmp_path / "case_4.b2nd").unlink()
    assert [finding.case for finding in judge(cases, tmp_path)["stored"]] == ["case_4"]


def test_an_absent_organ_is_not_one_of_an_unusual_volume_too(cases, tmp_path):
    cases.loc[6, "ml_spleen"] = 0.0
    assert list(judge(cases, tmp_path)) == ["present_spleen"]


def test_of_copies_the_first_stays(cases, tmp_path):
    cases.loc[[3, 7, 9], "key"] = "same"
    findings = judge(cases, tmp_path)["content_unique"]
    assert [finding.case for finding in findings] == ["case_7", "case_9"]
    assert all("case_3" in finding.reason for finding in findings)


def test_an_mr_needs_no_air(cases, tmp_path):
    cases["intensity_min"] = -3.0
    assert "air" in judge(cases, tmp_path)
    assert judge(cases, tmp_path, PLAN | {"modality": "MR"}) == {}


def test_spacing_limits_come_from_the_parameters(cases, tmp_path):
    findings = judge(cases, tmp_path, spacing_range=(1.0, 10.0))
    assert len(findings["spacing_x"]) == len(cases)


def test_a_record_holds_nothing_of_the_run(cases, tmp_path):
    cases.loc[6, "spacing_z"] = 12.5
    first, second = (
        [verdict.record() for verdict in judge_cases("abdomen", cases, PLAN, ValidateParams(), tmp_path)]
        for _ in range(2)
    )
    assert first == second
    spacing = next(record for record in first if record["name"] == "spacing_z")
    assert spacing["failed"] == ["case_6"]
    assert spacing["rows"] == 10
    assert not spacing["passed"]
    assert spacing["expectation"] == {
        "type": "expect_column_values_to_be_between",
        "column": "spacing_z",
        "min_value": 0.1,
        "max_value": 10.0,
    }


def test_a_table_without_a_column_says_which(cases):
    (verdict,) = judge_table(cases.drop(columns=["ml_spleen"]), ["liver", "spleen"])
    assert verdict.findings[0].case == ""
    assert "ml_spleen" in verdict.findings[0].reason


@pytest.mark.parametrize(("column", "value"), [("status", "maybe"), ("case", "case_1")])
def test_a_broken_table_is_found(cases, column, value):
    assert not any(verdict.findings for verdict in judge_table(cases, ["liver", "spleen"]))
    cases.loc[5, column] = value
    findings = [
        finding for verdict in judge_table(cases, ["liver", "spleen"]) for finding in verdict.findings
    ]
    assert [finding.case for finding in findings] == [cases.loc[5, "case"]]


def test_outliers_do_not_widen_what_is_usual():
    organs = pd.Series([100.0, 104, 96, 110, 91, 102, 98, 105])
    outliers = pd.Series([5.0, 4000.0])
    low, high = usual_volume(pd.concat([organs, outliers]))
    assert low > 40
    assert high < 250


def test_equal_organs_leave_room_for_the_next():
    low, high = usual_volume(pd.Series([100.0] * 10))
    assert low < 80
    assert high > 125


def test_few_or_absent_organs_are_no_distribution():
    assert usual_volume(pd.Series([100.0] * 7 + [0.0] * 10)) is None
