import pandas as pd
import pytest

from pipeline.params import ValidateParams
from pipeline.sampling.split import assign_splits
from pipeline.validation.judge import judge_dataset

LABELS = ["liver", "left_kidney", "right_kidney"]


@pytest.fixture
def many():
    """Sixty flawless cases, dealt out to folds and a test set."""
    rows = pd.DataFrame({"case": [f"case_{number}" for number in range(60)]})
    rows = rows.assign(patient=rows["case"], image_hash=rows["case"], annotated="")
    rows = rows.assign(ml_liver=1500.0, ml_left_kidney=160.0, ml_right_kidney=170.0)
    splits = assign_splits(list(rows["patient"]), 0.2, 5, 0)
    return rows.assign(split=[split for split, _ in splits], fold=[fold for _, fold in splits])


def judge_all(rows, found=None, **params):
    judged = judge_dataset(rows, found or len(rows), LABELS, ValidateParams(**params))
    return {
        verdict.check.name: (verdict.check.severity, verdict.findings[0].reason)
        for verdict in judged.verdicts
        if verdict.findings
    }


def test_a_balanced_data_set_has_nothing_wrong(many):
    assert judge_all(many) == {}


@pytest.mark.parametrize(
    ("found", "params", "check", "told"),
    [
        (200, {}, "quarantined_share", "140 of 200 cases are quarantined, more than the share of 0.5"),
        (60, {"min_cases": 61}, "enough_cases", "60 cases are accepted, fewer than the 61"),
    ],
)
def test_too_few_cases_are_an_error(many, found, params, check, told):
    severity, reason = judge_all(many, found, **params)[check]
    assert severity == "error"
    assert told in reason


def test_a_label_without_a_case_is_an_error(many):
    many["ml_liver"] = 0.0
    severity, reason = judge_all(many)["learnt_liver"]
    assert severity == "error"
    assert "liver is declared in ingest.labels, but labelled in none" in reason


def test_a_fold_or_a_test_set_without_a_label_is_told(many):
    many.loc[many["fold"].isin([1, -1]), "ml_liver"] = 0.0
    found = judge_all(many)
    assert found["folds_liver"] == ("warning", "1 of 5 folds have no case with liver")
    assert found["tested_liver"][0] == "warning"


def test_a_small_fold_is_told(many):
    kept = many[(many["fold"] != 2) | (many["fold"].eq(2).cumsum() == 1)]
    assert judge_all(kept)["fold_size"] == (
        "warning",
        "the smallest of 5 folds has 1 cases: its Dice says little",
    )


def test_classes_out_of_balance_are_told(many):
    many["ml_left_kidney"] = 1.0
    assert "left_kidney is 0.06% of the labelled voxels" in judge_all(many)["balance_left_kidney"][1]


def test_a_rare_label_is_told_where_it_was_looked_for(many):
    many.loc[3:, "ml_left_kidney"] = 0.0
    assert judge_all(many)["frequency_left_kidney"] == (
        "warning",
        "left_kidney is labelled in 5% of the cases",
    )
    many.loc[3:, "annotated"] = "liver;right_kidney"
    assert "frequency_left_kidney" not in judge_all(many)


@pytest.mark.parametrize("what", ["patient", "image_hash"])
def test_a_patient_or_an_image_on_both_sides_is_an_error(many, what):
    first, other = many[many["fold"] == 0].index[0], many[many["split"] == "test"].index[0]
    many.loc[other, what] = many.loc[first, what]
    assert judge_all(many)["patients_apart"] == (
        "error",
        "1 patients or images are both trained on and judged with",
    )
