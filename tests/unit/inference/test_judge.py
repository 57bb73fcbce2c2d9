import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import write_json
from pipeline.errors import DataError
from pipeline.inference.judge import Calibration, judge_cases, predictions
from pipeline.inference.model import load_model
from pipeline.metrics.calibration import as_table, nothing
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import Scan
from pipeline.volumes.readers.nifti import write_labels

LABELS = {"small": 7, "large": 3}
AIR, LARGE, SMALL = -1000, 100, 300
COLUMNS = [
    "case",
    "label",
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "volume_error",
    "truth_ml",
    "predicted_ml",
]
GEOMETRY = Geometry((10, 9, 8), np.diag([-2.0, -3.0, 4.0, 1.0]))
VOXEL_ML = 0.024


@pytest.fixture
def model(tmp_path, save_model):
    return load_model(save_model(tmp_path / "liver", LABELS, (AIR, LARGE, SMALL), spacing=(4.0, 3.0, 2.0)))


@pytest.fixture
def cases(tmp_path):
    """Writes cases, each from its image and its label map, and returns their rows."""

    def write(**volumes):
        rows = []
        for case, (image, labels) in volumes.items():
            write_image(tmp_path / "images" / f"{case}.nii.gz", image)
            write_labels(tmp_path / "labels" / f"{case}.nii.gz", labels, GEOMETRY)
            rows.append({"case": case, "layout": "folders"})
        return pd.DataFrame(rows, columns=["case", "layout"])

    return write


def write_image(path, image):
    import nibabel

    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(image.astype(np.int16), GEOMETRY.affine), path)


def volume(large=(), small=()):
    """An image with a box of each kind, from `large[0]` to before `large[1]` along the first axis."""
    image, labels = np.full(GEOMETRY.shape, AIR), np.zeros(GEOMETRY.shape, np.uint8)
    for box, plane, value, label in ((large, slice(1, 4), LARGE, 3), (small, slice(5, 8), SMALL, 7)):
        if box:
            place = (slice(*box), plane, slice(2, 5))
            image[place], labels[place] = value, label
    return image, labels


def row(table, case, label):
    return table[(table["case"] == case) & (table["label"] == label)].iloc[0]


def test_figures_are_those_of_the_boxes(model, cases, tmp_path):
    image, _ = volume(large=(2, 8), small=(1, 5))
    _, truth = volume(large=(4, 9), small=(1, 5))
    table = judge_cases(model, cases(patient=(image, truth)), tmp_path)
    assert list(table.columns) == COLUMNS
    large = row(table, "patient", "large")
    # Six planes of nine voxels predicted, five true, four in common.
    assert large["dice"] == pytest.approx(8 / 11)
    assert large["iou"] == pytest.approx(4 / 7)
    assert large["sensitivity"] == pytest.approx(4 / 5)
    assert large["precision"] == pytest.approx(4 / 6)
    assert large["volume_error"] == pytest.approx(1 / 5)
    assert large["truth_ml"] == pytest.approx(45 * VOXEL_ML)
    assert large["predicted_ml"] == pytest.approx(54 * VOXEL_ML)
    small = row(table, "patient", "small")
    assert (small["dice"], small["iou"], small["volume_error"]) == (1, 1, 0)


def test_each_case_has_a_row_for_each_label(model, cases, tmp_path):
    rows = cases(one=volume((1, 3)), other=volume((1, 3), (2, 4)))
    table = judge_cases(model, rows, tmp_path)
    assert sorted(zip(table["case"], table["label"], strict=True)) == [
        ("one", "large"),
        ("one", "small"),
        ("other", "large"),
        ("other", "small"),
    ]


def test_what_is_nowhere_has_no_figures_but_volumes(model, cases, tmp_path):
    table = judge_cases(model, cases(patient=volume(large=(1, 3))), tmp_path)
    small = row(table, "patient", "small")
    assert all(math.isnan(small[name]) for name in COLUMNS[2:7])
    assert (small["truth_ml"], small["predicted_ml"]) == (0, 0)


def test_what_was_missed_or_invented_counts_as_nothing_right(model, cases, tmp_path):
    rows = cases(
        missed=(volume(small=(1, 3))[0], volume(large=(1, 3))[1]),
        invented=(volume(large=(1, 3))[0], volume()[1]),
    )
    table = judge_cases(model, rows, tmp_path)
    for case, undefined in (("missed", "precision"), ("invented", "sensitivity")):
        found = row(table, case, "large")
        assert found["dice"] == found["iou"] == 0
        assert math.isnan(found[undefined])


def test_no_case_gives_no_row(model, cases, tmp_path):
    assert judge_cases(model, cases(), tmp_path).empty


def test_a_prediction_comes_with_its_scan_and_truth_in_the_order_of_the_table(model, cases, tmp_path):
    volumes = {"b": volume((1, 3)), "a": volume((2, 6), (1, 4))}
    found = list(predictions(model, cases(**volumes), tmp_path))
    assert [judged.case for judged in found] == ["b", "a"]
    for judged in found:
        image, labels = volumes[judged.case]
        (scan,) = judged.scans
        assert isinstance(scan, Scan)
        np.testing.assert_array_equal(scan.array, image)
        np.testing.assert_array_equal(judged.predicted, labels)
        np.testing.assert_array_equal(judged.truth, labels)
        assert judged.annotated == LABELS.keys()
        np.testing.assert_allclose(judged.geometry.affine, GEOMETRY.affine)


def test_a_label_that_nobody_looked_for_has_no_figures_but_what_was_predicted(model, cases, tmp_path):
    rows = cases(patient=(volume(large=(1, 3), small=(2, 4))[0], volume(large=(1, 3))[1]))
    write_json(tmp_path / "dataset.json", {"cases": [{"id": "patient", "annotated": ["large"]}]})
    table = judge_cases(model, rows, tmp_path)
    assert list(table.columns) == COLUMNS
    assert row(table, "patient", "large")["dice"] == 1
    small = row(table, "patient", "small")
    assert all(math.isnan(small[name]) for name in COLUMNS[2:8])
    assert small["predicted_ml"] == pytest.approx(2 * 9 * VOXEL_ML)


def test_a_region_is_judged_as_one_mask_after_the_labels_of_its_case(model, cases, tmp_path):
    # The model takes a plane of one part for the other: of the whole, nothing is wrong.
    image, truth = volume(large=(2, 6))
    image[4:6, 1:4, 2:5] = SMALL
    rows = cases(one=(image, truth), other=volume((1, 3), (2, 4)))
    table = judge_cases(model, rows, tmp_path, 1.0, regions={"whole": ["large", "small"], "part": ["small"]})
    assert table["label"].tolist() == ["large", "small", "whole", "part"] * 2
    assert row(table, "one", "large")["dice"] == pytest.approx(2 / 3)
    whole = row(table, "one", "whole")
    assert (whole["dice"], whole["hd95"], whole["nsd"]) == (1, 0, 1)
    assert whole["truth_ml"] == whole["predicted_ml"] == pytest.approx(36 * VOXEL_ML)
    assert row(table, "other", "whole")["truth_ml"] == pytest.approx((18 + 18) * VOXEL_ML)
    alone, same = row(table, "other", "part").drop("label"), row(table, "other", "small").drop("label")
    assert alone.equals(same)


def test_of_a_region_with_a_label_that_nobody_looked_for_nothing_is_known(model, cases, tmp_path):
    rows = cases(patient=volume(large=(1, 3), small=(2, 4)))
    write_json(tmp_path / "dataset.json", {"cases": [{"id": "patient", "annotated": ["large"]}]})
    table = judge_cases(model, rows, tmp_path, regions={"whole": ["large", "small"], "known": ["large"]})
    assert math.isnan(row(table, "patient", "whole")["dice"])
    assert row(table, "patient", "whole")["predicted_ml"] == pytest.approx((18 + 18) * VOXEL_ML)
    assert row(table, "patient", "known")["dice"] == 1


def test_masks_of_single_organs_are_the_truth_as_one_label_map_is(model, cases, tmp_path):
    image, labels = volume(large=(1, 3), small=(2, 4))
    rows = cases(patient=(image, labels))
    expected = judge_cases(model, rows, tmp_path)
    (tmp_path / "labels" / "patient.nii.gz").unlink()
    for name, value in LABELS.items():
        mask = (labels == value).astype(np.uint8)
        write_labels(tmp_path / "labels" / "patient" / f"{name}.nii.gz", mask, GEOMETRY)
    pd.testing.assert_frame_equal(judge_cases(model, rows, tmp_path), expected)


def test_names_that_mean_a_label_are_those_of_the_models_recipe(tmp_path, save_model, cases):
    image, labels = volume(large=(1, 3), small=(2, 4))
    rows = cases(patient=(image, labels))
    (tmp_path / "labels" / "patient.nii.gz").unlink()
    for name, value in {"Hepar": 3, "small": 7}.items():
        mask = (labels == value).astype(np.uint8)
        write_labels(tmp_path / "labels" / "patient" / f"{name}.nii.gz", mask, GEOMETRY)
    intensities, spacing = (AIR, LARGE, SMALL), (4.0, 3.0, 2.0)
    folder = save_model(tmp_path / "liver", LABELS, intensities, spacing=spacing, rois={"large": ["hep*"]})
    table = judge_cases(load_model(folder), rows, tmp_path)
    assert row(table, "patient", "large")["dice"] == 1


def test_a_case_of_several_channels_is_predicted_from_all_of_them(tmp_path, save_model, cases):
    image, labels = volume(large=(1, 3))
    rows = cases(patient=(image, labels)).assign(layout="nnunet")
    (tmp_path / "labels").rename(tmp_path / "labelsTr")
    shift = np.where(labels, 150, 0)
    for channel, one in enumerate([image + shift, image - shift]):
        write_image(tmp_path / "imagesTr" / f"patient_{channel:04d}.nii.gz", one)
    folder = save_model(tmp_path / "liver", LABELS, (AIR, LARGE, SMALL), spacing=(4.0, 3.0, 2.0), channels=2)
    (judged,) = predictions(load_model(folder), rows, tmp_path)
    assert len(judged.scans) == 2
    np.testing.assert_array_equal(judged.predicted, labels)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_case_whose_files_went_away_is_told_with_the_command_that_brings_them_back(
    model, cases, tmp_path, kind
):
    rows = cases(a=volume(large=(1, 3)), b=volume(large=(1, 3)))
    (tmp_path / kind / "b.nii.gz").unlink()
    with pytest.raises(DataError, match=r"^b: its files are not in .*\(1 cases\): run dvc checkout"):
        judge_cases(model, rows, tmp_path)


def test_probabilities_are_counted_where_the_model_says_them(model, cases, tmp_path):
    """Six planes of nine voxels are found, four of them rightly; one plane of the truth is missed."""
    image, _ = volume(large=(2, 8))
    _, truth = volume(large=(4, 9))
    calibration = Calibration(nothing(3))
    rows = cases(patient=(image, truth))
    table = judge_cases(model, rows, tmp_path, calibration=calibration)
    pd.testing.assert_frame_equal(table, judge_cases(model, rows, tmp_path))
    bins = as_table(calibration.counted, {"large": 1, "small": 2})
    large = bins[(bins["label"] == "large") & (bins["bin"] == 9)].iloc[0]
    assert large["voxels"] == 54
    assert large["observed"] == pytest.approx(36 / 54)
    assert large["missed"] == 9
    assert not ((bins["label"] == "small") & (bins["bin"] > 0)).any()


def test_probabilities_that_come_slab_by_slab_are_counted_as_those_that_come_at_once(
    tmp_path, save_model, cases
):
    rows, counted = cases(patient=volume(large=(2, 8), small=(3, 9))), []
    for name, depth in (("whole", 8), ("slabs", 4)):
        folder = save_model(
            tmp_path / name, LABELS, (AIR, LARGE, SMALL), spacing=(4.0, 3.0, 2.0), patch_size=(depth, 8, 8)
        )
        calibration = Calibration(nothing(3))
        judge_cases(load_model(folder), rows, tmp_path, calibration=calibration)
        counted.append(as_table(calibration.counted, {"large": 1, "small": 2}))
    pd.testing.assert_frame_equal(*counted)
    assert (counted[0]["observed"] > 0.9).any()


def test_probabilities_of_a_label_that_nobody_looked_for_are_not_counted(model, cases, tmp_path):
    rows = cases(patient=(volume(large=(1, 3), small=(2, 4))[0], volume(large=(1, 3))[1]))
    write_json(tmp_path / "dataset.json", {"cases": [{"id": "patient", "annotated": ["large"]}]})
    calibration = Calibration(nothing(3))
    judge_cases(model, rows, tmp_path, calibration=calibration)
    assert set(as_table(calibration.counted, {"large": 1, "small": 2})["label"]) == {"large"}


def test_where_nobody_looked_at_a_voxel_nothing_is_right_or_wrong(tmp_path, save_model, cases):
    """Of one labelled slice in eight, what is predicted in the others is no mistake."""
    image, truth = volume(large=(2, 8))
    truth[:, :, [2, 4]] = 0
    recipe = {"annotation": {"kind": "sparse", "unlabelled": None, "size_mm": [0.0, 0.0, 0.0]}}
    folder = save_model(tmp_path / "liver", LABELS, (AIR, LARGE, SMALL), spacing=(4.0, 3.0, 2.0))
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"recipe": config["recipe"] | recipe})
    calibration = Calibration(nothing(3))
    table = judge_cases(load_model(folder), cases(patient=(image, truth)), tmp_path, calibration=calibration)
    assert row(table, "patient", "large")["dice"] == 1
    bins = as_table(calibration.counted, {"large": 1})
    assert bins["voxels"].sum() == 18
    assert bins["observed"].tolist() == [1.0]


def test_a_truth_in_other_values_is_compared_by_name(model, cases, tmp_path):
    image, truth = volume(large=(2, 8), small=(1, 5))
    rows = cases(patient=(image, truth))
    expected = judge_cases(model, rows, tmp_path)
    swapped = np.arange(256, dtype=np.uint8)
    swapped[[3, 7]] = 7, 3
    rows = cases(patient=(image, swapped[truth]))
    found = judge_cases(model, rows, tmp_path, reads=replace(model.recipe, labels={"large": 7, "small": 3}))
    pd.testing.assert_frame_equal(found, expected)
    assert (judge_cases(model, rows, tmp_path)["dice"] == 0).all(), (
        "the model alone mistakes one for the other"
    )


def test_a_label_that_the_model_does_not_know_is_no_obstacle(tmp_path, save_model, cases):
    model = load_model(save_model(tmp_path / "liver", {"large": 3}, (AIR, LARGE), spacing=(4.0, 3.0, 2.0)))
    rows = cases(patient=volume(large=(2, 8), small=(1, 5)))
    found = judge_cases(model, rows, tmp_path, reads=replace(model.recipe, labels=LABELS))
    assert found["label"].tolist() == ["large"]
    assert found["truth_ml"].tolist() == pytest.approx([54 * VOXEL_ML])


def test_of_a_label_that_is_no_longer_annotated_nothing_is_known(model, cases, tmp_path):
    image, _ = volume(large=(2, 8), small=(1, 5))
    _, truth = volume(large=(2, 8))
    rows = cases(patient=(image, truth))
    found = judge_cases(model, rows, tmp_path, reads=replace(model.recipe, labels={"large": 3}))
    assert row(found, "patient", "large")["dice"] == 1
    assert row(found, "patient", "small")[["dice", "truth_ml"]].isna().all()
