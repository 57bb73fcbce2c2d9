"""A model on cases whose truth is known, in their original geometry: what `evaluate` and the gate use."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.inference.model import Model
from pipeline.labels import UNKNOWN
from pipeline.metrics.calibration import Tally, tally
from pipeline.metrics.overlap import overlap
from pipeline.metrics.surface import surface
from pipeline.progress import track
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.cases import read_scans
from pipeline.volumes.geometry import Floats, Geometry, to_canonical
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.readers import Scan
from pipeline.volumes.recipe import Recipe
from pipeline.volumes.resampling import resample_labels
from pipeline.volumes.truth import annotated_labels, read_truth

Watch = Callable[[Floats], None]
Rows = list[dict[str, Any]]
NOWHERE = -1
"""No value of a label map."""


@dataclass
class Calibration:
    """Counts, over cases, of how often the model is right at each probability, at its own spacing."""

    counted: Tally

    def watcher(
        self, model: Model, truth: NDArray[np.uint8], geometry: Geometry, annotated: Iterable[str]
    ) -> Watch:
        """What counts the class probabilities of a case as they come, slab by slab.

        Args:
            model: that says them.
            truth: label map (I, J, K) of the case.
            geometry: its own.
            annotated: labels that somebody looked for.
        """
        index = np.zeros(256, np.uint8)
        index[UNKNOWN] = UNKNOWN
        for name, number in model.recipe.classes.items():
            index[model.recipe.labels[name]] = number
        classes = resample_labels(
            index[to_canonical(truth, geometry)], geometry.spacing, model.recipe.spacing
        )
        looked_for = [model.recipe.classes[name] for name in annotated]
        come = 0

        def watch(slab: Floats) -> None:
            nonlocal come
            self.counted += tally(slab, classes[come : come + slab.shape[1]], looked_for)
            come += slab.shape[1]

        return watch


@dataclass(frozen=True)
class Judged:
    """One case as its model sees it and as it is."""

    case: str
    scans: list[Scan]
    """A channel each."""
    predicted: NDArray[np.uint8]
    """Label map (I, J, K)."""
    truth: NDArray[np.uint8]
    """Label map (I, J, K); where it is UNKNOWN, so is what is predicted."""
    annotated: frozenset[str]
    """Labels that somebody looked for; of others the truth knows nothing."""

    @property
    def geometry(self) -> Geometry:
        """Of both label maps."""
        return self.scans[0].geometry


def judge_cases(
    model: Model,
    cases: pd.DataFrame,
    raw: Path,
    nsd_tolerance_mm: float | None = None,
    calibration: Calibration | None = None,
    reads: Recipe | None = None,
    regions: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> pd.DataFrame:
    """How well the model's label maps agree with the truth: a row a case and label, or region.

    Args:
        model: to be judged.
        cases: rows of the table of accepted cases.
        raw: the folder of their files.
        nsd_tolerance_mm: of the surfaces' NSD; None: surfaces are not measured.
        calibration: is added to; None: nothing is counted.
        reads: how the truth is read, where that is not as the model learned it: labels are the same by
            their names, and of one that is not in it nothing is known. None: as the model learned it.
        regions: by name, labels that are judged as one mask besides, each by itself.

    Returns:
        case, label, dice, iou, sensitivity, precision, volume_error, hd95, assd, nsd (all three only
        with a tolerance), truth_ml, predicted_ml; NaN for a label that nobody looked for in a case. The
        regions of a case follow its labels; NaN where one of their labels was not looked for.
    """
    rows: Rows = []
    values = model.recipe.labels if reads is None else reads.labels
    masks = {name: [name] for name in model.config["labels"]} | dict(regions)
    for judged in predictions(model, cases, raw, calibration, reads):
        rows += [_row(judged, name, labels, values, nsd_tolerance_mm) for name, labels in masks.items()]
    return pd.DataFrame(rows)


def predictions(
    model: Model,
    cases: pd.DataFrame,
    raw: Path,
    calibration: Calibration | None = None,
    reads: Recipe | None = None,
) -> Iterator[Judged]:
    """Each case predicted, one after the other; arguments as of `judge_cases`.

    Raises:
        DataError: the files of a case are not there any more.
    """
    files = _files(cases, raw)
    recipe = reads or model.recipe
    for case in track(cases["case"].tolist(), "predict", len(cases)):
        scans = read_scans(files[case], raw)
        masks = read_truth(files[case], raw, scans[0].geometry, recipe)
        annotated = annotated_labels(files[case], masks, recipe)
        watch = None
        if calibration is not None:
            watch = calibration.watcher(model, masks.array, scans[0].geometry, annotated)
        predicted = _by_name(model.predict(case, scans, watch), model.recipe.labels, recipe.labels)
        if recipe.annotation.kind != "full":
            # Of what nobody looked at there is nothing to be right or wrong about.
            predicted[masks.array == UNKNOWN] = UNKNOWN
        yield Judged(case, scans, predicted, masks.array, frozenset(annotated))


def _files(cases: pd.DataFrame, raw: Path) -> dict[str, CaseFiles]:
    """The files of each case, found again: tables hold no paths, which may name a person."""
    found = (
        {files.case: files for files in find_layout(raw, cases["layout"].iloc[0]).cases} if len(cases) else {}
    )
    lost = [case for case in cases["case"] if case not in found or not found[case].complete]
    if lost:
        raise DataError(
            f"{lost[0]}: its files are not in {raw} any more ({len(lost)} cases)",
            f"run dvc checkout {raw}, or dvc repro ingest@{raw.name}",
        )
    return found


def _by_name(
    predicted: NDArray[np.uint8], own: Mapping[str, int], wanted: Mapping[str, int]
) -> NDArray[np.uint8]:
    """A label map in other values of the same labels; a label that has none becomes background."""
    if own == wanted:
        return predicted
    table = np.zeros(256, np.uint8)
    for name, value in own.items():
        table[value] = wanted.get(name, 0)
    return table[predicted]


def _row(
    judged: Judged,
    name: str,
    labels: Sequence[str],
    values: Mapping[str, int],
    nsd_tolerance_mm: float | None,
) -> dict[str, Any]:
    wanted = [values.get(label, NOWHERE) for label in labels]
    masks = _mask(judged.truth, wanted), _mask(judged.predicted, wanted)
    found = overlap(*masks)
    voxel_ml = float(np.prod(judged.geometry.spacing)) / 1000
    row = {
        "dice": found.dice,
        "iou": found.iou,
        "sensitivity": found.sensitivity,
        "precision": found.precision,
        "volume_error": found.volume_error,
    }
    if nsd_tolerance_mm is not None:
        row |= asdict(surface(*masks, judged.geometry.stored_spacing, nsd_tolerance_mm))
    row["truth_ml"] = found.truth * voxel_ml
    if not judged.annotated.issuperset(labels):
        row = dict.fromkeys(row, np.nan)
    return {"case": judged.case, "label": name, **row, "predicted_ml": found.predicted * voxel_ml}


def _mask(array: NDArray[np.uint8], values: Sequence[int]) -> NDArray[np.bool_]:
    """Where a label map has one of the values."""
    mask: NDArray[np.bool_] = array == values[0]
    for value in values[1:]:
        mask |= array == value
    return mask
