"""A model on cases whose truth is known, in their original geometry: what `evaluate` and the gate use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.inference.model import Model
from pipeline.metrics.overlap import overlap
from pipeline.progress import track
from pipeline.volumes.readers import Scan, read_scan

Rows = list[dict[str, Any]]


def judge_cases(model: Model, cases: pd.DataFrame, raw: Path) -> pd.DataFrame:
    """Overlap of the model's label maps with the truth: a row a case and label.

    Args:
        model: to be judged.
        cases: rows of the table of accepted cases.
        raw: the folder that their paths are relative to.

    Returns:
        case, label, dice, iou, sensitivity, precision, volume_error, truth_ml, predicted_ml.
    """
    rows: Rows = []
    for case, scan, predicted, truth in predictions(model, cases, raw):
        rows += _rows(case, scan, predicted, truth, model.config["labels"])
    return pd.DataFrame(rows)


def predictions(
    model: Model, cases: pd.DataFrame, raw: Path
) -> Iterator[tuple[str, Scan, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Case, scan, predicted and true label map (I, J, K), one case after the other."""
    for row in track(cases.to_dict("records"), "predict", len(cases)):
        scan = read_scan(raw / row["image"])
        truth = read_scan(raw / row["label"]).array.astype(np.uint8)
        yield row["case"], scan, model.predict(row["case"], scan), truth


def _rows(
    case: str,
    scan: Scan,
    predicted: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    labels: dict[str, int],
) -> Rows:
    voxel_ml = float(np.prod(scan.geometry.spacing)) / 1000
    rows = []
    for name, value in labels.items():
        found = overlap(truth == value, predicted == value)
        rows.append(
            {
                "case": case,
                "label": name,
                "dice": found.dice,
                "iou": found.iou,
                "sensitivity": found.sensitivity,
                "precision": found.precision,
                "volume_error": found.volume_error,
                "truth_ml": found.truth * voxel_ml,
                "predicted_ml": found.predicted * voxel_ml,
            }
        )
    return rows
