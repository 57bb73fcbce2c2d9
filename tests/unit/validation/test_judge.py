import numpy as np
import pandas as pd
import pytest

from pipeline.params import ValidateParams
from pipeline.validation.judge import judge_cases, judge_table

LABELS = ["liver", "left_kidney", "right_kidney"]
PLAN = {"modality": "CT", "labels": dict.fromkeys(LABELS, 1), "spacing": [3.0, 1.0, 1.0]}
PLACES = {"liver": 0.68, "left_kidney": 0.3, "right_kidney": 0.7}
"""Of the way from the left to the right."""


def flawless(number):
    """The row of a case that nothing is wrong with."""
    row = {"case": f"case_{number}", "patient": f"p{number}", "status": "accepted"}
    row |= {"reason": "", "remedy": "", "key": f"key{number}", "image_hash": f"hash{number}"}
    row |= {"annotated": "", "scanner": "Maker One", "layout": "msd", "notes": ""}
    row |= {f"shape_{axis}": 64 for axis in "zyx"}
    row |= {"spacing_z": 3.0, "spacing_y": 0.8, "spacing_x": 0.8}
    row |= {"intensity_min": -1000.0, "intensity_max": 900.0, "air_hu": -998.0, "body_share": 0.5}
    for name, ml in (("liver", 1500.0), ("left_kidney", 160.0), ("right_kidney", 170.0)):
        row |= {f"voxels_{name}": 1000 + number, f"ml_{name}": ml + 2 * number, f"hu_{name}": 110.0}
        row |= {f"components_{name}": 1, f"largest_{name}": 1.0, f"inside_{name}": 1.0}
        row |= {f"centre_{name}_{axis}": 0.5 for axis in "zyx"} | {f"touches_{name}": 0.0}
        row[f"centre_{name}_x"] = PLACES[name]
    return row


@pytest.fixture
def cases(tmp_path):
    """Ten flawless cases, whose volumes are there."""
    for number in range(10):
        (tmp_path / f"case_{number}.b2nd").touch()
    return pd.DataFrame([flawless(number) for number in range(10)])


def judge(cases, volumes, plan=PLAN, **params):
    """The findings of each check that has any."""
    verdicts = judge_cases("abdomen", cases, plan, ValidateParams(**params), volumes).verdicts
    return {verdict.check.name: verdict.findings for verdict in verdicts if verdict.findings}


def named(findings):
    return [finding.case for finding in findings]


def test_flawless_cases_pass_every_check(cases, tmp_path):
    assert judge(cases, tmp_path) == {}


FLAWS = [
    ("spacing_z", 12.5, "spacing_z", "error", "12.5 mm along z"),
    ("spacing_x", 0.01, "spacing_x", "error", "0.01 mm along x"),
    ("spacing_y", 4.5, "fine_y", "warning", "along y (back to front) measure 4.5 times the planned 1 mm"),
    ("shape_z", 7, "shape_z", "error", "7 voxels along z"),
    ("shape_x", 5000, "shape_x", "error", "5000 voxels along x"),
    ("intensity_min", 900.0, "contrast", "error", "every voxel of the image has the same value"),
    ("intensity_max", np.nan, "complete", "error", "1 of its measurements"),
    ("image_hash", None, "complete", "error", "1 of its measurements"),
    ("intensity_min", -80.0, "air", "warning", "-80 HU"),
    ("air_hu", -800.0, "air_hu_off", "error", "the air around the body has -800 HU"),
    ("air_hu", -900.0, "air_hu_near", "warning", "the air around the body has -900 HU"),
    ("body_share", 0.002, "body", "warning", "only 0.2% of the image is body"),
    ("hu_liver", -400.0, "hu_liver", "warning", "the median of liver is -400 HU, plausible are -30 to 250"),
    ("ml_left_kidney", 0.0, "present_left_kidney", "warning", "left_kidney is absent"),
    ("ml_liver", 90.0, "small_liver", "warning", "liver has 90.0 ml, plausible are"),
    ("ml_liver", 15000.0, "large_liver", "warning", "liver has 15,000.0 ml"),
    ("largest_left_kidney", 0.8, "pieces_left_kidney", "warning", "largest piece of left_kidney is 80%"),
    ("inside_liver", 0.1, "off_body", "error", "the label map does not lie on its image"),
    ("inside_left_kidney", 0.4, "inside_left_kidney", "warning", "40% of left_kidney lies in the body"),
    ("inside_left_kidney", 0.7, "inside_left_kidney", "warning", "70% of left_kidney lies in the body"),
    ("centre_left_kidney_x", 0.75, "sides_left_kidney", "error", "labels swapped or image mirrored"),
    ("centre_liver_x", 0.2, "side_liver", "warning", "liver belongs to the right half of the body"),
    ("centre_right_kidney_x", 0.35, "side_right_kidney", "warning", "right_kidney belongs to the right half"),
]


SOUND = 12
"""Cases without a flaw, before those that have one each."""


@pytest.fixture(scope="module")
def flawed(tmp_path_factory):
    """The verdicts on sound cases and one case a flaw, by the check's name: judging takes seconds."""
    volumes = tmp_path_factory.mktemp("volumes")
    rows = [flawless(number) for number in range(SOUND + len(FLAWS))]
    for row, (column, value, *_) in zip(rows[SOUND:], FLAWS, strict=True):
        row[column] = value
    for row in rows:
        (volumes / f"{row['case']}.b2nd").touch()
    verdicts = judge_cases("abdomen", pd.DataFrame(rows), PLAN, ValidateParams(), volumes).verdicts
    return {verdict.check.name: verdict for verdict in verdicts}


@pytest.mark.parametrize("number", range(len(FLAWS)), ids=[f"{flaw[2]}-{flaw[1]}" for flaw in FLAWS])
def test_a_flaw_is_found_and_told(flawed, number):
    _, _, check, severity, told = FLAWS[number]
    verdict = flawed[check]
    found = {finding.case: finding for finding in verdict.findings}
    finding = found[f"case_{SOUND + number}"]
    assert told in finding.reason
    assert finding.remedy
    assert "{" not in finding.reason + finding.remedy + verdict.check.title
    assert verdict.check.severity == severity


def test_cases_without_a_flaw_are_left_alone(flawed):
    sound = {f"case_{number}" for number in range(SOUND)}
    assert not sound & {finding.case for verdict in flawed.values() for finding in verdict.findings}


def test_every_expectation_of_a_case_is_tried(flawed):
    tried = {check for _, _, check, _, _ in FLAWS}
    tried |= {"stored", "image_of_one_patient", "content_unique", "image_labelled_once"}
    # Of what is repeated for axes, labels and pairs, one is enough.
    kinds = {_bare(name) for name in tried}
    assert {_bare(name) for name in flawed} <= kinds


def _bare(name):
    for label in LABELS:
        name = name.removesuffix(f"_{label}")
    return name.rstrip("xyz")


def test_a_missing_volume_is_found(cases, tmp_path):
    (tmp_path / "case_4.b2nd").unlink()
    assert named(judge(cases, tmp_path)["stored"]) == ["case_4"]


def test_an_absent_organ_is_not_one_of_an_unusual_volume_too(cases, tmp_path):
    cases.loc[6, ["ml_left_kidney", "voxels_left_kidney"]] = 0
    cases.loc[6, [f"{fact}_left_kidney" for fact in ("hu", "largest", "inside")]] = np.nan
    cases.loc[6, "centre_left_kidney_x"] = np.nan
    assert list(judge(cases, tmp_path)) == ["present_left_kidney"]


def test_an_organ_that_the_image_cuts_off_may_be_small(cases, tmp_path):
    cases.loc[6, "ml_liver"] = 90.0
    assert "small_liver" in judge(cases, tmp_path)
    cases.loc[6, "touches_liver"] = 0.2
    assert judge(cases, tmp_path) == {}


def test_an_organ_nobody_looked_for_is_not_judged(cases, tmp_path):
    cases.loc[6, "annotated"] = "liver;right_kidney"
    cases.loc[6, "ml_left_kidney"] = np.nan
    assert judge(cases, tmp_path) == {}
    cases.loc[6, ["ml_left_kidney", "hu_left_kidney"]] = [3.0, -900.0]
    assert judge(cases, tmp_path) == {}
    cases.loc[6, "annotated"] = ""
    assert set(judge(cases, tmp_path)) == {"small_left_kidney", "hu_left_kidney"}


def test_an_image_under_two_patients_is_refused_twice_each_naming_the_other(cases, tmp_path):
    cases.loc[[3, 7], "image_hash"] = "same"
    findings = judge(cases, tmp_path)["image_of_one_patient"]
    assert named(findings) == ["case_3", "case_7"]
    assert "case_7" in findings[0].reason
    assert "case_3" in findings[1].reason


def test_of_copies_of_one_patient_the_first_stays(cases, tmp_path):
    for row in (3, 7, 9):
        cases.loc[row, cases.columns[1:]] = cases.loc[3, cases.columns[1:]]
    found = judge(cases, tmp_path)
    assert list(found) == ["content_unique"]
    assert named(found["content_unique"]) == ["case_7", "case_9"]
    assert all("copy of case_3" in finding.reason for finding in found["content_unique"])


def test_two_label_maps_of_one_image_of_one_patient_are_marked(cases, tmp_path):
    cases.loc[[3, 7], ["image_hash", "patient"]] = ["same", "p3"]
    found = judge(cases, tmp_path)
    assert list(found) == ["image_labelled_once"]
    assert named(found["image_labelled_once"]) == ["case_3", "case_7"]


def test_images_without_a_hash_are_no_copies_of_each_other(cases, tmp_path):
    cases.loc[[3, 7], "image_hash"] = None
    assert list(judge(cases, tmp_path)) == ["complete"]


def test_an_mr_needs_neither_air_nor_body(cases, tmp_path):
    cases["intensity_min"] = -3.0
    assert "air" in judge(cases, tmp_path)
    unknown = ["air_hu", "body_share", *(f"inside_{name}" for name in LABELS)]
    cases[unknown] = None
    assert judge(cases, tmp_path, PLAN | {"modality": "MR"}) == {}


def test_the_sides_of_an_mr_are_judged_by_pairs(cases, tmp_path):
    cases.loc[6, ["centre_left_kidney_x", "centre_right_kidney_x"]] = [0.7, 0.3]
    found = judge(cases, tmp_path, PLAN | {"modality": "MR"})
    assert list(found) == ["sides_left_kidney"]
    assert named(found["sides_left_kidney"]) == ["case_6"]


def test_a_label_of_no_known_kind_is_compared_with_the_other_cases(cases, tmp_path):
    renamed = {name: name.replace("liver", "thing") for name in cases.columns}
    plan = PLAN | {"labels": dict.fromkeys(["thing", "left_kidney", "right_kidney"], 1)}
    cases.loc[6, ["ml_liver", "hu_liver"]] = [90.0, -400.0]
    found = judge(cases.rename(columns=renamed), tmp_path, plan)
    assert list(found) == ["small_thing"]
    assert "usual in these data are" in found["small_thing"][0].reason


def test_spacing_limits_come_from_the_parameters(cases, tmp_path):
    findings = judge(cases, tmp_path, spacing_range=(1.0, 10.0))
    assert len(findings["spacing_x"]) == len(cases)


def test_a_record_holds_nothing_of_the_run(cases, tmp_path):
    cases.loc[6, "spacing_z"] = 12.5
    first, second = (
        [
            verdict.record()
            for verdict in judge_cases("abdomen", cases, PLAN, ValidateParams(), tmp_path).verdicts
        ]
        for _ in range(2)
    )
    assert first == second
    spacing = next(record for record in first if record["name"] == "spacing_z")
    assert (spacing["suite"], spacing["failed"], spacing["rows"]) == ("geometry", ["case_6"], 10)
    assert not spacing["passed"]
    expectation = spacing["expectation"]
    assert expectation["type"] == "expect_column_values_to_be_between"
    assert (expectation["column"], expectation["min_value"], expectation["max_value"]) == (
        "spacing_z",
        0.1,
        10,
    )


def test_a_table_without_a_column_says_which(cases):
    (verdict,) = judge_table(cases.drop(columns=["ml_liver"]), LABELS).verdicts
    assert verdict.findings[0].case == ""
    assert "ml_liver" in verdict.findings[0].reason


@pytest.mark.parametrize(("column", "value"), [("status", "maybe"), ("case", "case_1")])
def test_a_broken_table_is_found(cases, column, value):
    assert not any(verdict.findings for verdict in judge_table(cases, LABELS).verdicts)
    cases.loc[5, column] = value
    verdicts = judge_table(cases, LABELS).verdicts
    assert [finding.case for verdict in verdicts for finding in verdict.findings] == [cases.loc[5, "case"]]
