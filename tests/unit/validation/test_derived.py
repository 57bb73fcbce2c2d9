import numpy as np
import pandas as pd
import pytest

from pipeline.validation.derived import annotated, case_columns, dataset_row, needed_columns

LABELS = ["left_lung", "right_lung"]
PLAN = {"labels": dict.fromkeys(LABELS, 1), "spacing": [3.0, 1.0, 0.5]}


@pytest.fixture
def cases():
    """Six cases, of a patient and with an image each."""
    row = dict.fromkeys(needed_columns(LABELS), 1.0) | {"annotated": ""}
    rows = [row | {"case": f"c{n}", "patient": f"p{n}", "image_hash": f"h{n}"} for n in range(6)]
    return pd.DataFrame(rows)


@pytest.fixture
def derive(tmp_path):
    return lambda cases: case_columns(cases, PLAN, tmp_path)


def test_of_all_labelled_voxels_the_share_in_the_body_is_weighted_by_their_volume(cases, derive):
    cases[["ml_left_lung", "inside_left_lung"]] = [30.0, 1.0]
    cases[["ml_right_lung", "inside_right_lung"]] = [10.0, 0.2]
    cases.loc[1, "inside_right_lung"] = np.nan
    cases.loc[2, ["ml_left_lung", "ml_right_lung"]] = 0.0
    assert derive(cases)["labelled_inside"].tolist()[:2] == pytest.approx([0.8, 1.0])
    assert np.isnan(derive(cases)["labelled_inside"][2]), "where nothing is labelled there is no share"


def test_spacing_is_held_against_that_of_the_same_axis(cases, derive):
    cases[["spacing_z", "spacing_y", "spacing_x"]] = [6.0, 3.0, 2.0]
    found = derive(cases)
    assert [found[f"times_planned_{axis}"][0] for axis in "zyx"] == [2, 3, 4]


def test_a_pair_is_apart_by_how_far_the_right_is_beyond_the_left(cases, derive):
    cases["centre_left_lung_x"], cases["centre_right_lung_x"] = 0.25, 0.75
    assert derive(cases)["apart_left_lung"].tolist() == [0.5] * 6


def test_an_organ_that_is_absent_or_cut_off_has_no_volume_of_a_whole_one(cases, derive):
    cases["ml_left_lung"] = [0.5, 0.0, 0.5, np.nan, 0.5, 0.5]
    cases["touches_left_lung"] = [0.0, 0.0, 0.01, 0.0, np.nan, 0.0]
    found = derive(cases)
    assert found["present_ml_left_lung"].notna().tolist() == [True, False, True, False, True, True]
    assert found["whole_ml_left_lung"].notna().tolist() == [True, False, False, False, True, True]


def test_every_measurement_that_a_case_lacks_counts_but_of_organs_nobody_looked_for(cases, derive):
    cases.loc[1, ["key", "spacing_x", "ml_left_lung"]] = None
    cases.loc[2, ["ml_left_lung", "ml_right_lung"]] = None
    cases.loc[2, "annotated"] = "right_lung"
    cases.loc[3, ["air_hu", "hu_left_lung"]] = None
    assert derive(cases)["missing"].tolist() == [0, 3, 1, 0, 0, 0]


def test_names_of_labels_are_not_looked_for_in_one_another(cases):
    cases["annotated"] = ["", None, "left_lung;right_lung", "left_lung_lobe", "right_lung", "left_lung"]
    assert annotated(cases, "left_lung").tolist() == [True, True, True, False, False, True]


def test_of_many_with_one_image_three_are_named(cases, derive):
    cases.loc[:4, "image_hash"] = "same"
    found = derive(cases)["other_patient"].fillna("nobody").tolist()
    assert found == [
        "c1, c2, c3 and more",
        "c0, c2, c3 and more",
        "c0, c1, c3 and more",
        "c0, c1, c2 and more",
        "c0, c1, c2 and more",
        "nobody",
    ]
    cases.loc[4, "image_hash"] = "h4"
    assert derive(cases)["other_patient"][0] == "c1, c2, c3"


def test_of_one_patient_and_image_copies_are_told_from_other_labels(cases, derive):
    cases.loc[:3, ["image_hash", "patient"]] = ["same", "one"]
    cases.loc[[1, 3], "voxels_right_lung"] = 2.0
    found = derive(cases).fillna({"copy_of": "", "relabelled": ""})
    assert found["copy_of"].tolist() == ["", "", "c0", "c1", "", ""]
    assert found["relabelled"].tolist() == ["c1, c3", "c0, c2", "c1, c3", "c0, c2", "", ""]
    assert found["other_patient"].isna().all()


def test_the_row_of_a_data_set_is_counted_by_hand():
    rows = pd.DataFrame(
        {
            "patient": ["a", "a", "b", "c", "d"],
            "image_hash": ["1", "2", "3", "4", "4"],
            "annotated": ["", "", "left_lung", "", ""],
            "split": ["train", "train", "train", "train", "test"],
            "fold": [0, 1, 1, 1, -1],
            "ml_left_lung": [0.5, 3.0, 3.0, 0.0, 3.0],
            "ml_right_lung": [1.0, 0.0, np.nan, 1.0, 0.0],
        }
    )
    (row,) = dataset_row(rows, 8, LABELS, 3).to_dict("records")
    assert row == {
        "case": "",
        "accepted": 5,
        "quarantined_share": 0.375,
        "cases_with_left_lung": 4,
        "case_share_left_lung": 0.8,
        "voxel_share_left_lung": 0.75,
        "tested_with_left_lung": 1,
        "folds_without_left_lung": 1,
        "cases_with_right_lung": 2,
        "case_share_right_lung": 0.5,
        "voxel_share_right_lung": 0.25,
        "tested_with_right_lung": 0,
        "folds_without_right_lung": 1,
        "smallest_fold": 0,
        "shared": 2,
    }


def test_a_data_set_without_cases_or_a_label_without_one_has_no_shares():
    none = pd.DataFrame({"annotated": [], "ml_left_lung": [], "ml_right_lung": []})
    (row,) = dataset_row(none, 0, LABELS, 3).to_dict("records")
    assert (row["accepted"], row["quarantined_share"], row["cases_with_left_lung"]) == (0, 0, 0)
    assert np.isnan(row["case_share_left_lung"])
    assert np.isnan(row["voxel_share_left_lung"])
    assert "smallest_fold" not in row
