"""Stage `evaluate`: the held-out cases, predicted and judged in their original geometry."""

from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from pipeline.atomic import atomic_path, write_json, write_text
from pipeline.errors import DataError
from pipeline.inference.judge import Calibration, judge_cases, predictions
from pipeline.inference.model import Model, load_model
from pipeline.metrics.bootstrap import patients_of
from pipeline.metrics.calibration import as_table, expected_error, nothing
from pipeline.metrics.case_table import JUDGED, UNITED, labels_and_regions, subject_of
from pipeline.metrics.subgroups import subgroups
from pipeline.params import EvaluateParams
from pipeline.progress import console
from pipeline.reports.evaluation import report_page
from pipeline.reports.overlay import display_window, overlay_png
from pipeline.volumes.geometry import to_canonical

Figures = dict[str, dict[str, float]]
"""By figure and label."""
FIGURES = ("dice", "iou", "hd95", "assd", "nsd")
"""Of which the metrics tell the means."""
SOFT_TISSUE = (-60.0, 140.0)
"""HU of which a CT is shown in a window twice as wide."""


def run(
    organ: str,
    params: EvaluateParams,
    *,
    raw: Path,
    accepted: Path,
    models: Path,
    curves: Path,
    metrics: Path,
    cases: Path,
    report: Path,
) -> None:
    """Judge the model on the frozen test cases and write figures and report.

    Raises:
        DataError: there is no test case, or nothing in them to measure; or regions are not of the model's
            labels.
    """
    table = pd.read_parquet(accepted)
    test = table[table["split"] == "test"]
    if test.empty:
        raise DataError(
            f"{organ}: no case is kept back for the test", f"raise organs.{organ}.validate.test_share"
        )
    model = load_model(models)
    _check_regions(organ, params, set(model.config["labels"]))
    calibration = Calibration(nothing(len(model.recipe.classes) + 1))
    judged = judge_cases(model, test, raw, params.nsd_tolerance_mm, calibration, regions=params.regions)
    per_case, per_region = labels_and_regions(judged, model.config["labels"])
    if per_case["dice"].isna().all():
        raise DataError(
            f"{organ}: no label is in any of the {len(test)} test cases, neither true nor predicted",
            f"add cases that hold the labels, or take another organs.{organ}.validate.split_seed",
        )
    bins = as_table(calibration.counted, model.recipe.classes)
    figures = summarise(per_case) | of_regions(per_region) | calibration_errors(bins)
    with atomic_path(cases) as temporary:
        judged.to_csv(temporary, index=False, float_format="%.6g")
    united = {UNITED: params.regions} if params.regions else {}
    write_json(metrics, figures | united | {"cases": len(test), JUDGED: subject_of(models, test)})
    pictures = worst_pictures(model, per_case, test, raw, params.worst_cases)
    html = report_page(
        organ,
        model.config,
        judged,
        pd.read_csv(curves),
        pictures,
        params.nsd_tolerance_mm,
        subgroups(test),
        bins,
        patients_of(test),
        params.regions,
    )
    write_text(report, html)
    labels = ", ".join(f"{name} {value:.3f}" for name, value in figures["dice"].items())
    # A label with brackets is no markup.
    console.print(f"{organ}: Dice on {len(test)} test cases: {labels}; report in {report}", markup=False)


def _check_regions(organ: str, params: EvaluateParams, labels: set[str]) -> None:
    """Refuse regions of other labels than the model's, which was trained before these were changed."""
    parts = {label for united in params.regions.values() for label in united}
    wrong = [f"does not know the label '{one}'" for one in sorted(parts - labels)]
    taken = sorted(labels & params.regions.keys())
    wrong += [f"has a label '{one}', as a region is called" for one in taken]
    if wrong:
        raise DataError(
            f"{organ}: the model {wrong[0]} (evaluate.regions)",
            f"train it with the labels there are now: dvc repro train@{organ}",
        )


def summarise(per_case: pd.DataFrame) -> Figures:
    """Mean of each figure and label over the cases where it is defined and finite; the mean of the labels."""
    means = {figure: _means(per_case, figure) for figure in FIGURES}
    # Where every prediction is empty no distance is finite, and JSON has no word for that.
    return {figure: {"mean": fmean(own.values())} | own for figure, own in means.items() if own}


def of_regions(per_region: pd.DataFrame) -> Figures:
    """As `summarise` tells of labels, as `region_dice` and so on, without a mean: regions overlap."""
    means = {f"region_{figure}": _means(per_region, figure) for figure in FIGURES}
    return {figure: own for figure, own in means.items() if own}


def _means(rows: pd.DataFrame, figure: str) -> dict[str, float]:
    known = rows[figure].replace(np.inf, np.nan)
    means = known.groupby(rows["label"], sort=False).mean().dropna()
    return {str(name): float(mean) for name, mean in means.items()}


def calibration_errors(bins: pd.DataFrame) -> Figures:
    """The expected calibration error of each label and their mean; nothing where nothing was found."""
    errors = {str(label): expected_error(own) for label, own in bins.groupby("label", sort=False)}
    return {"calibration_error": {"mean": fmean(errors.values())} | errors} if errors else {}


def worst_pictures(
    model: Model, per_case: pd.DataFrame, test: pd.DataFrame, raw: Path, count: int
) -> list[tuple[str, bytes]]:
    """Pictures of the cases with the lowest mean Dice, the worst first."""
    ranked = per_case.groupby("case")["dice"].mean().sort_values(kind="stable").head(count)
    chosen = test.set_index("case", drop=False).loc[ranked.index]
    pictures = []
    for judged in predictions(model, chosen, raw):
        image = model.calibrated(judged.case, judged.scans)[0]
        picture = overlay_png(
            image,
            to_canonical(judged.truth, judged.geometry),
            to_canonical(judged.predicted, judged.geometry),
            judged.geometry.spacing,
            display_window(image, model.config["modality"], SOFT_TISSUE),
            model.config["labels"],
        )
        pictures.append((judged.case, picture))
    return pictures
