import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import write_json
from pipeline.errors import DataError
from pipeline.params import EvaluateParams
from pipeline.stages.evaluate import run, summarise
from pipeline.workspace import stage_files

ORGAN = "liver"
LABELS = {"small": 7, "large": 3}
AIR, LARGE, SMALL = -1000, 100, 300
FAT = -600
"""Nearer to air than to a label; an image of air alone is no CT."""
SHAPE = (12, 10, 8)
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
CASES = Path("reports") / ORGAN / "cases.csv"
METRICS = Path("metrics") / f"{ORGAN}.json"
REPORT = Path("reports") / ORGAN / "report.html"
ACCEPTED = Path("data") / "accepted" / f"{ORGAN}.parquet"


@pytest.fixture
def evaluate(project, save_model):
    """Runs the stage on the test cases, each given by what the model says and by what is true."""

    def stage(worst_cases=1, nsd_tolerance_mm=1.0, regions=None, **cases):
        save_model(project / "models" / ORGAN, LABELS, (AIR, LARGE, SMALL), spacing=(3.0, 2.0, 2.0))
        rows = [write_case(project / "data" / "raw" / ORGAN, case, *boxes) for case, boxes in cases.items()]
        # A case that was learned from; reading it would fail.
        rows.append({"case": "learned", "layout": "folders", "split": "train"})
        ACCEPTED.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_parquet(ACCEPTED)
        curves = Path("reports") / ORGAN / "curves.csv"
        curves.parent.mkdir(parents=True, exist_ok=True)
        curves.write_text("step,loss,dice\n5,1.2,0.3\n10,0.8,0.5\n")
        params = EvaluateParams(
            worst_cases=worst_cases, nsd_tolerance_mm=nsd_tolerance_mm, regions=regions or {}
        )
        run(ORGAN, params, **stage_files(project, "evaluate", ORGAN))

    return stage


def box(start, stop):
    inside = np.zeros(SHAPE, bool)
    inside[start:stop, 2:6, 2:5] = True
    return inside


def write_case(raw, case, predicted, true):
    """A case in which the model will find the boxes `predicted`; both map label names to boxes."""
    image, labels = np.full(SHAPE, AIR, np.int16), np.zeros(SHAPE, np.uint8)
    image[0, 0, 0] = FAT
    for name, hu in (("large", LARGE), ("small", SMALL)):
        image[predicted.get(name, np.zeros(SHAPE, bool))] = hu
        labels[true.get(name, np.zeros(SHAPE, bool))] = LABELS[name]
    for folder, array in (("images", image), ("labels", labels)):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), raw / folder / f"{case}.nii.gz")
    return {"case": case, "key": "k", "split": "test", "layout": "folders"}


FIRST = ({"large": box(0, 4), "small": box(6, 9)}, {"large": box(2, 6), "small": box(6, 9)})
SECOND = ({"large": box(0, 3)}, {"large": box(0, 3)})
MISSED = ({"small": box(0, 3)}, {"large": box(8, 9), "small": box(0, 3)})


def test_figures_are_the_means_over_the_cases_and_then_over_the_labels(evaluate):
    evaluate(first=FIRST, second=SECOND)
    metrics = json.loads(METRICS.read_text())
    # large: a half and a whole; small: a whole, and nowhere in the second case.
    assert metrics["dice"] == pytest.approx({"large": 0.75, "small": 1.0, "mean": 0.875})
    assert metrics["iou"] == pytest.approx({"large": (1 / 3 + 1) / 2, "small": 1.0, "mean": (2 / 3 + 1) / 2})
    assert metrics["cases"] == 2


def test_each_case_and_label_has_its_row_and_what_is_undefined_is_empty(evaluate):
    evaluate(first=FIRST, second=SECOND)
    table = pd.read_csv(CASES).set_index(["case", "label"]).sort_index()
    assert len(table) == 4
    assert table.loc[("first", "large"), "dice"] == pytest.approx(0.5)
    assert table.loc[("first", "large"), "truth_ml"] == pytest.approx(4 * 4 * 3 * 0.012)
    assert table.loc[("second", "small"), ["dice", "iou", "sensitivity", "precision"]].isna().all()
    assert table.loc[("second", "small"), "truth_ml"] == 0
    assert "second,small,,,,,,,,,0,0\n" in CASES.read_text()


def test_surfaces_are_measured_in_millimetres_and_an_infinite_distance_is_in_no_mean(evaluate):
    evaluate(second=SECOND, missed=MISSED)
    found = json.loads(METRICS.read_text())
    assert found["hd95"] == found["assd"] == {"large": 0.0, "small": 0.0, "mean": 0.0}
    assert found["nsd"] == pytest.approx({"large": 0.5, "small": 1.0, "mean": 0.75})
    evaluate(first=FIRST, missed=MISSED)
    # Blocks of the same size, two voxels of 2 mm apart.
    assert json.loads(METRICS.read_text())["hd95"]["large"] == pytest.approx(4.0)


def test_a_surface_is_near_by_the_tolerance_of_the_parameters(evaluate):
    # The blocks of the large label are 4 mm apart.
    for tolerance, least, most in ((3.9, 0.5, 0.99), (4.0, 1.0, 1.0)):
        evaluate(nsd_tolerance_mm=tolerance, first=FIRST)
        assert least <= json.loads(METRICS.read_text())["nsd"]["large"] <= most


def test_what_the_probabilities_are_worth_is_told_by_label_and_on_average(evaluate):
    evaluate(first=FIRST)
    # Of the large label, which the model is sure of, half is wrong.
    assert json.loads(METRICS.read_text())["calibration_error"] == pytest.approx(
        {"large": 0.5, "small": 0.0, "mean": 0.25}, abs=0.02
    )


def test_metrics_are_json_where_no_distance_is_finite(evaluate):
    evaluate(missed=({}, {"large": box(2, 4), "small": box(6, 9)}))
    found = json.loads(METRICS.read_text(), parse_constant=pytest.fail)
    assert found["nsd"]["mean"] == found["dice"]["mean"] == 0
    assert not {"hd95", "assd"} & set(found)


def test_a_label_that_is_nowhere_has_no_figure_and_does_not_count(evaluate):
    evaluate(second=SECOND)
    assert json.loads(METRICS.read_text())["dice"] == {"large": 1.0, "mean": 1.0}


def test_a_missed_organ_counts_as_zero(evaluate):
    evaluate(second=SECOND, missed=MISSED)
    assert json.loads(METRICS.read_text())["dice"] == pytest.approx(
        {"large": 0.5, "small": 1.0, "mean": 0.75}
    )


def test_what_nobody_looked_for_in_a_case_does_not_count_there(evaluate, project):
    raw = project / "data" / "raw" / ORGAN
    raw.mkdir(parents=True)
    write_json(raw / "dataset.json", {"cases": [{"id": "first", "annotated": ["large"]}]})
    evaluate(first=FIRST, missed=MISSED)
    assert json.loads(METRICS.read_text())["dice"] == pytest.approx(
        {"large": 0.25, "small": 1.0, "mean": 0.625}
    )
    table = pd.read_csv(CASES).set_index(["case", "label"])
    figures = ["dice", "iou", "sensitivity", "precision", "volume_error", "hd95", "assd", "nsd", "truth_ml"]
    assert table.loc[("first", "small"), figures].isna().all()
    assert table.loc[("first", "small"), "predicted_ml"] > 0


def test_where_nothing_can_be_measured_it_says_so(evaluate):
    with pytest.raises(DataError, match="no label is in any of the 1 test cases"):
        evaluate(nothing=({}, {}))
    assert not METRICS.exists()


def test_the_worst_cases_are_shown_the_worst_first(evaluate):
    evaluate(worst_cases=2, first=FIRST, second=SECOND, missed=MISSED)
    page = REPORT.read_text()
    shown = page[page.index("The worst cases") :]
    assert shown.index("missed: Dice of") < shown.index("first: Dice of")
    assert "second: Dice of" not in shown


def test_no_picture_is_asked_for_and_none_is_shown(evaluate):
    evaluate(worst_cases=0, first=FIRST)
    assert "data:image/png" not in REPORT.read_text()


def test_the_same_model_and_data_give_the_same_bytes(evaluate):
    outputs = []
    for _ in range(2):
        evaluate(first=FIRST, second=SECOND)
        outputs.append([path.read_bytes() for path in (CASES, METRICS, REPORT)])
    assert outputs[0] == outputs[1]


def test_a_label_with_brackets_is_told_as_it_is_written(evaluate, monkeypatch, capsys):
    figures = {"dice": {"mean": 0.5, "[left] kidney": 0.5, "[/right] kidney": 0.5}}
    monkeypatch.setattr("pipeline.stages.evaluate.summarise", lambda _: figures)
    evaluate(first=FIRST)
    assert "mean 0.500, [left] kidney 0.500, [/right] kidney 0.500" in capsys.readouterr().err


def test_without_a_test_case_the_parameter_to_change_is_named(evaluate):
    with pytest.raises(DataError, match=r"raise organs\.liver\.validate\.test_share"):
        evaluate()


def test_the_mean_of_the_labels_counts_every_label_alike():
    table = pd.DataFrame(
        {
            "case": ["a", "b", "c", "a"],
            "label": ["one", "one", "one", "two"],
            "dice": [0.2, 0.4, float("nan"), 0.9],
            "iou": [0.1, 0.3, float("nan"), 0.8],
            "hd95": [1.0, 3.0, float("nan"), float("inf")],
            "assd": [1.0, 2.0, float("nan"), float("inf")],
            "nsd": [0.5, 0.7, float("nan"), 0.0],
        }
    )
    found = summarise(table)
    assert found["dice"] == pytest.approx({"one": 0.3, "two": 0.9, "mean": 0.6})
    assert found["iou"] == pytest.approx({"one": 0.2, "two": 0.8, "mean": 0.5})
    assert found["hd95"] == {"one": 2.0, "mean": 2.0}
    assert found["nsd"] == pytest.approx({"one": 0.6, "two": 0.0, "mean": 0.3})


def test_regions_are_reported_and_change_nothing_else(evaluate):
    evaluate(first=FIRST, second=SECOND)
    without, plain = json.loads(METRICS.read_text()), pd.read_csv(CASES)
    evaluate(regions={"whole": ["large", "small"]}, first=FIRST, second=SECOND)
    metrics, table = json.loads(METRICS.read_text()), pd.read_csv(CASES)
    # Of the first case seven voxels in a row are true and seven predicted, five in common.
    assert metrics["region_dice"] == pytest.approx({"whole": (5 / 7 + 1) / 2})
    assert {name for name in metrics if name.startswith("region_")} == {
        f"region_{figure}" for figure in ("dice", "iou", "hd95", "assd", "nsd")
    }
    assert metrics.pop("regions") == {"whole": ["large", "small"]}
    assert {name: value for name, value in metrics.items() if not name.startswith("region_")} == without
    pd.testing.assert_frame_equal(table[table["label"] != "whole"].reset_index(drop=True), plain)
    report = REPORT.read_text()
    assert "whole is large with small" in report
    assert "<h2>Dice by region</h2>" in report
    assert "<h2>Surfaces by region</h2>" in report


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ({"whole": ["large", "left"]}, "the model does not know the label 'left'"),
        ({"small": ["large"]}, "the model has a label 'small', as a region is called"),
    ],
)
def test_regions_of_other_labels_than_the_models_are_refused(evaluate, regions, said):
    with pytest.raises(DataError, match=said):
        evaluate(regions=regions, first=FIRST)
