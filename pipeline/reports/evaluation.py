"""The report on a model: how well it does on patients it has never seen, and how it came to be."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from pipeline.metrics.bootstrap import interval, patient_numbers
from pipeline.metrics.calibration import expected_error, overconfidence
from pipeline.metrics.case_table import labels_and_regions, united_in_words
from pipeline.reports.charts import line_chart, reliability_chart, strip_chart
from pipeline.reports.page import Html, chart, charts, facts, page, paragraph, picture, section, table

POINTS = 200
"""Of the loss curve; more cannot be seen."""
SETTINGS = {
    "modality": "modality",
    "spacing": "spacing (z, y, x), mm",
    "patch_size": "patch (z, y, x), voxels",
    "normalisation": "normalisation",
    "network": "network",
    "training": "training",
    "folds": "networks, each without another fold",
    "fold_dice": "Dice of the network on the fold it left out",
    "clean": "label maps tidied up",
}
"""Keys of config.json that are shown, and how they are called."""
SLIGHT = 0.01
"""A mean probability and an observed share that differ by less count as the same."""
SURE = "95 % interval"
EMPTY_MASKS = (
    "Dice, IoU and the other overlaps compare two masks. Where a case has an organ and the prediction has "
    "none of it, or the other way round, Dice is 0 and the case counts. Where both are empty there is "
    "nothing to compare: the value is undefined, left empty in cases.csv and out of every mean. Surfaces are "
    "infinitely far apart where only one of the two masks is empty (NSD is 0, which counts); such a distance "
    "counts in a median, and no mean of distances has it."
)


def report_page(
    organ: str,
    config: Mapping[str, Any],
    per_case: pd.DataFrame,
    curves: pd.DataFrame | None,
    worst: Sequence[tuple[str, bytes]],
    nsd_tolerance_mm: float,
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
    calibration: pd.DataFrame | None = None,
    patients: Mapping[str, str] = MappingProxyType({}),
    regions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The report as one offline HTML file.

    Args:
        organ: its name.
        config: the model's config.json.
        per_case: a row a (case, label) or (case, region), the columns of cases.csv.
        curves: step, loss and dice (empty where not measured); None if there are none.
        worst: case and overlay (PNG), the worst first.
        nsd_tolerance_mm: within which NSD takes two surfaces for one.
        groups: cases that are alike in something, by the name of their group.
        calibration: what the probabilities are worth, as `pipeline.metrics.calibration.as_table` tells it.
        patients: whose a case is; one that is not named is of a patient of its own.
        regions: by name, labels that are judged as one.
    """
    per_case, per_region = labels_and_regions(per_case, config["labels"])
    blocks = [
        _headline(per_case),
        _dice(per_case, patients, "label"),
        _surfaces(per_case, nsd_tolerance_mm, "label"),
    ]
    if len(per_region):
        blocks += [
            _dice(per_region, patients, "region", _united(regions)),
            _surfaces(per_region, nsd_tolerance_mm, "region"),
        ]
    if groups:
        blocks.append(_by_group(per_case, groups, patients))
    if calibration is not None and len(calibration):
        blocks.append(_calibration(calibration))
    if curves is not None and len(curves):
        blocks.append(_learning(curves))
    if worst:
        blocks.append(_worst(per_case, worst))
    blocks += [_training(config), _empty_masks(per_case)]
    cases = per_case["case"].nunique()
    subtitle = (
        f"Judged on {cases} held-out cases of patients the model has never seen, in their original geometry."
    )
    return page(f"{organ}: evaluation", subtitle, blocks)


def _headline(per_case: pd.DataFrame) -> Html:
    means = per_case.groupby("label", sort=False)[["dice", "iou"]].mean().mean()
    lowest = per_case.groupby("case")["dice"].mean()
    return facts(
        [
            (_number(means["dice"]), "mean Dice, every label counting the same"),
            (_number(means["iou"]), "mean IoU"),
            (_number(lowest.min()), "mean Dice of the worst case"),
            (str(per_case["case"].nunique()), "test cases"),
        ]
    )


def _united(regions: Mapping[str, Sequence[str]]) -> Html:
    told = united_in_words(regions)
    return paragraph(f"Labels judged as one: {told}. No mean of labels counts them.", "soft")


def _dice(figures: pd.DataFrame, patients: Mapping[str, str], of: str, *before: Html) -> Html:
    rows, groups = [], {}
    for label, cases in figures.groupby("label", sort=False):
        known = cases.dropna(subset=["dice"]).sort_values(["dice", "case"])
        dice = known.set_index("case")["dice"]
        worst = known["case"].iloc[0] if len(known) else "–"
        volume = (known["predicted_ml"] - known["truth_ml"]).median()
        row = [str(label), str(len(known)), _number(dice.mean()), _interval(dice, patients)]
        row += map(_number, (dice.median(), dice.min()))
        rows.append([*row, "–" if pd.isna(volume) else f"{volume:+.1f}", str(worst)])
        groups[str(label)] = [
            (str(case), float(value)) for case, value in zip(known["case"], dice, strict=True)
        ]
    columns = [of, "cases", "mean", SURE, "median", "worst", "volume, ml", "worst case"]
    return section(
        f"Dice by {of}",
        *before,
        table(columns, rows, numbers=columns[1:-1]),
        paragraph(
            f"{SURE}: where the mean of other such patients is expected, by resampling the patients. "
            "Volume: the median of predicted minus true millilitres.",
            "soft",
        ),
        chart(
            strip_chart(groups),
            "Dice of every test case; the bar is the median. Point at a dot for its case.",
        ),
    )


def _surfaces(figures: pd.DataFrame, nsd_tolerance_mm: float, of: str) -> Html:
    rows = []
    for label, cases in figures.groupby("label", sort=False):
        known = cases.dropna(subset=["hd95"])
        far = known["hd95"].replace(np.inf, np.nan).max()
        distances = (known["hd95"].median(), known["assd"].median(), far)
        row = [str(label), str(len(known)), *map(_millimetres, distances), _number(known["nsd"].mean())]
        rows.append([*row, str(int(np.isinf(known["hd95"]).sum()))])
    columns = [of, "cases", "HD95", "ASSD", "worst HD95", "NSD", "infinitely far"]
    return section(
        f"Surfaces by {of}",
        table(columns, rows, numbers=columns[1:]),
        paragraph(
            "Millimetres; HD95 and ASSD are medians over the cases, the worst HD95 is the worst finite one. "
            f"NSD is the mean share of both surfaces within {nsd_tolerance_mm:g} mm of each other.",
            "soft",
        ),
    )


def _by_group(
    per_case: pd.DataFrame, groups: Mapping[str, Sequence[str]], patients: Mapping[str, str]
) -> Html:
    means = per_case.groupby("case")["dice"].mean()
    rows = []
    for name, cases in groups.items():
        own, others = means[means.index.isin(list(cases))].dropna(), means[~means.index.isin(list(cases))]
        apart = own.mean() - others.mean()
        told = "–" if pd.isna(apart) else f"{apart:+.3f}"
        sure = _interval(own, patients)
        rows.append([name, str(len(own)), _number(own.mean()), sure, _number(own.min()), told])
    columns = ["cases with", "cases", "mean", SURE, "worst", "against the others"]
    return section(
        "Where it does better and worse",
        table(columns, rows, numbers=columns[1:]),
        paragraph(
            "Dice of a case is the mean of its labels. Few cases say little: look at the interval.", "soft"
        ),
    )


def _calibration(bins: pd.DataFrame) -> Html:
    rows, drawn = [], []
    for label, own in bins.groupby("label", sort=False):
        voxels = own["voxels"]
        said, so = ((own[column] * voxels).sum() / voxels.sum() for column in ("confidence", "observed"))
        shares = [f"{said:.1%}", f"{so:.1%}", f"{expected_error(own):.3f}"]
        above = overconfidence(own)
        verdict = "true" if abs(above) <= SLIGHT else "over-confident" if above > 0 else "cautious"
        rows.append([str(label), *shares, f"{own['missed'].iloc[0]:,}", verdict])
        points = zip(own["confidence"], own["observed"], voxels, strict=True)
        drawn.append(chart(reliability_chart(list(points), str(label)), str(label)))
    columns = ["label", "predicted", "observed", "calibration error", "voxels missed", "on average"]
    return section(
        "What its probabilities are worth",
        table(columns, rows, numbers=columns[1:-1]),
        paragraph(
            "Of voxels that the model calls an organ with 70 %, 70 % should be that organ. Dots below the "
            "line: the model is surer than it may be; above: it knows more than it says. A dot stands for "
            "the voxels of a tenth of the probabilities, the larger the more. Voxels that it gives less than "
            "1 % are left out; those of them that are the organ after all are counted as missed. The "
            "calibration error is the mean distance from the line.",
            "soft",
        ),
        charts(*drawn),
    )


def _learning(curves: pd.DataFrame) -> Html:
    loss = curves.dropna(subset=["loss"])
    width = max(1, -(-len(loss) // POINTS))
    thin = loss.groupby([*[pd.Series(range(len(loss)), index=loss.index) // width]])[["step", "loss"]].mean()
    watched = curves.dropna(subset=["dice"])
    steps = int(curves["step"].max())
    figures = []
    if len(thin):
        top, bottom = float(thin["loss"].max()), min(0.0, float(thin["loss"].min()))
        svg = line_chart(_pairs(thin, "loss"), bottom, top, "training loss by step")
        figures.append(chart(svg, f"Training loss over {steps} steps"))
    if len(watched):
        svg = line_chart(_pairs(watched, "dice"), 0, 1, "validation Dice by step")
        figures.append(chart(svg, "Dice of the watched fold, which is not trained on"))
    return section("How it learnt", charts(*figures))


def _pairs(curve: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(curve["step"], curve[column], strict=True)]


def _worst(per_case: pd.DataFrame, worst: Sequence[tuple[str, bytes]]) -> Html:
    figures = []
    for case, png in worst:
        own = per_case[per_case["case"] == case]
        dice = ", ".join(
            f"{label} {_number(value)}" for label, value in zip(own["label"], own["dice"], strict=True)
        )
        figures.append(picture(png, f"{case}: Dice of {dice}"))
    return section(
        "The worst cases", paragraph("Where the model fails is where to look first.", "soft"), *figures
    )


def _training(config: Mapping[str, Any]) -> Html:
    rows = [row for key, name in SETTINGS.items() if key in config for row in _settings(name, config[key])]
    return section("How it was trained", table(["setting", "value"], rows))


def _settings(name: str, value: Any) -> list[tuple[str, str]]:
    """Name and value of a setting; of nested settings, one pair each."""
    if isinstance(value, Mapping):
        pairs = ((f"{name}, {key.replace('_', ' ')}", inner) for key, inner in value.items())
        return [row for inner_name, inner in pairs for row in _settings(inner_name, inner)]
    if isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        return [row for one in value for row in _settings(name, one)]
    if isinstance(value, list | tuple):
        return [(name, ", ".join(_setting(one) for one in value) or "none")]
    return [(name, _setting(value))]


def _setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _empty_masks(per_case: pd.DataFrame) -> Html:
    rows = []
    for label, every in per_case.groupby("label", sort=False):
        # Of a label that nobody looked for in a case it is not known whether it is there.
        cases = every.dropna(subset=["truth_ml"])
        truth, predicted = cases["truth_ml"] > 0, cases["predicted_ml"] > 0
        kinds = (truth & predicted, truth & ~predicted, ~truth & predicted, ~truth & ~predicted)
        rows.append([str(label), *(str(int(kind.sum())) for kind in kinds)])
    columns = ["label", "both there", "missed", "invented", "both empty"]
    return section("What empty masks mean", paragraph(EMPTY_MASKS), table(columns, rows, numbers=columns[1:]))


def _interval(dice: "pd.Series[float]", patients: Mapping[str, str]) -> str:
    """Of the mean of Dice by case."""
    patient = patient_numbers(dice.index.tolist(), patients)
    found = interval(np.asarray(dice, dtype=np.float64), patient=patient)
    return "–" if found is None else f"{found[0]:.3f} to {found[1]:.3f}"


def _millimetres(value: float) -> str:
    if np.isinf(value):
        return "∞"
    return "–" if pd.isna(value) else f"{value:.2f}"


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"
