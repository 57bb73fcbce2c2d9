"""The columns that checks judge and that are worked out of the case table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.validation.organs import pairs
from pipeline.volumes.facts import columns_of
from pipeline.volumes.store import SUFFIX

AXES = {"z": "feet to head", "y": "back to front", "x": "left to right"}
WHOLE = ("patient", "key", "image_hash", "intensity_min", "intensity_max")


def measured_columns(labels: Sequence[str]) -> list[str]:
    """The columns that no accepted case may leave empty, apart from organs nobody looked for."""
    geometry = [f"{quantity}_{axis}" for quantity in ("shape", "spacing") for axis in AXES]
    return [*WHOLE, *geometry, *(f"ml_{name}" for name in labels)]


def needed_columns(labels: Sequence[str]) -> list[str]:
    """The columns without which a case table cannot be judged."""
    names = ["case", "status", "reason", "remedy", "annotated", "air_hu", "body_share"]
    facts = [name for label in labels for name in columns_of(label) if not name.startswith("ml_")]
    return [*names, *measured_columns(labels), *facts]


def case_columns(cases: pd.DataFrame, plan: dict[str, Any], volumes: Path) -> pd.DataFrame:
    """Rows of the case table with what is worked out of them; what cannot be judged is NaN or None.

    Args:
        cases: accepted rows.
        plan: of the organ, with `labels` and `spacing`.
        volumes: where their volumes should be.
    """
    labels = list(plan["labels"])
    looked_for = {name: annotated(cases, name) for name in labels}
    numbers = {name: pd.to_numeric(cases[name], errors="coerce") for name in ("air_hu", "body_share")}
    for label in labels:
        facts = [name for name in columns_of(label) if not name.startswith(("voxels_", "components_"))]
        # Before pandas is asked anything of them: a column that is all None holds no numbers.
        numbers |= {
            name: pd.to_numeric(cases[name], errors="coerce").where(looked_for[label]) for name in facts
        }
    table = cases.assign(**numbers)
    derived: dict[str, Any] = {
        "missing": _missing(table, labels, looked_for),
        "stored": [(volumes / f"{case}{SUFFIX}").is_file() for case in cases["case"]],
        "contrast": table["intensity_max"] - table["intensity_min"],
        "labelled_inside": _labelled_inside(table, labels),
    }
    derived |= {
        f"times_planned_{axis}": table[f"spacing_{axis}"] / planned
        for axis, planned in zip(AXES, plan["spacing"], strict=True)
    }
    for name in labels:
        # An organ that is absent is no organ of an unusual volume, nor is one the image cuts off small.
        present = table[f"ml_{name}"].where(table[f"ml_{name}"] > 0)
        derived |= {f"present_ml_{name}": present}
        derived |= {f"whole_ml_{name}": present.where(~(table[f"touches_{name}"] > 0))}
    derived |= {
        f"apart_{left}": table[f"centre_{right}_x"] - table[f"centre_{left}_x"]
        for left, right in pairs(labels)
    }
    derived |= _copies(table, labels)
    return table.assign(**derived)


def annotated(cases: pd.DataFrame, label: str) -> "pd.Series[bool]":
    """In which of `cases` somebody looked for the label; an empty entry stands for all labels."""
    entries = cases["annotated"].fillna("").map(str)
    return entries.map(lambda names: not names or label in names.split(";")).astype(bool)


def _missing(
    table: pd.DataFrame, labels: Sequence[str], looked_for: dict[str, "pd.Series[bool]"]
) -> "pd.Series[int]":
    """How many measurements each case lacks."""
    gaps = table[measured_columns(labels)].isna()
    for label in labels:
        gaps[f"ml_{label}"] &= looked_for[label]
    return gaps.sum(axis=1)


def _labelled_inside(table: pd.DataFrame, labels: Sequence[str]) -> "pd.Series[float]":
    """Which share of all labelled voxels lies in the body."""
    weights = pd.DataFrame({name: table[f"ml_{name}"] for name in labels})
    shares = pd.DataFrame({name: table[f"inside_{name}"] for name in labels})
    known = weights.where(shares.notna(), 0.0).fillna(0.0)
    total = known.sum(axis=1)
    return (known * shares.fillna(0.0)).sum(axis=1) / total.where(total > 0)


def _copies(table: pd.DataFrame, labels: Sequence[str]) -> dict[str, list[str | None]]:
    """For each case the others with its image: of another patient, with the same labels, with other ones."""
    found: dict[str, list[str | None]] = {
        name: [None] * len(table) for name in ("other_patient", "copy_of", "relabelled")
    }
    cases, patients = table["case"].tolist(), table["patient"].tolist()
    what = table[[f"{fact}_{name}" for name in labels for fact in ("voxels", "largest")]]
    content = [tuple(row) for row in what.fillna(-1).itertuples(index=False)]
    for rows in _groups(table["image_hash"]):
        for place, row in enumerate(rows):
            others = [other for other in rows if patients[other] != patients[row]]
            own = [other for other in rows if patients[other] == patients[row] and other != row]
            found["other_patient"][row] = _named(cases, others)
            # Of true copies the first is kept.
            found["copy_of"][row] = _named(
                cases,
                [other for other in rows[:place] if other in own and content[other] == content[row]][:1],
            )
            found["relabelled"][row] = _named(cases, [one for one in own if content[one] != content[row]])
    return found


def _groups(hashes: "pd.Series[str]") -> list[list[int]]:
    """Row numbers of cases that have one image, for each image that more than one case has."""
    places: dict[str, list[int]] = {}
    for row, one in enumerate(hashes):
        if isinstance(one, str) and one:
            places.setdefault(one, []).append(row)
    return [rows for rows in places.values() if len(rows) > 1]


def _named(cases: Sequence[str], rows: Sequence[int]) -> str | None:
    return ", ".join(cases[row] for row in rows[:3]) + (" and more" if len(rows) > 3 else "") or None


def dataset_row(rows: pd.DataFrame, found: int, labels: Sequence[str], folds: int) -> pd.DataFrame:
    """The data set as a table of one row.

    Args:
        rows: the accepted cases, with `split` and `fold` if they could be dealt out.
        found: how many cases there were.
        labels: names.
        folds: how many folds there should be.
    """
    row: dict[str, Any] = {"case": "", "accepted": len(rows)}
    row["quarantined_share"] = (found - len(rows)) / found if found else 0.0
    volumes = {name: pd.to_numeric(rows[f"ml_{name}"], errors="coerce") for name in labels}
    medians = {name: float(ml[ml > 0].median()) if (ml > 0).any() else 0.0 for name, ml in volumes.items()}
    total = sum(medians.values())
    for name, ml in volumes.items():
        has = ml > 0
        judged = annotated(rows, name)
        row[f"cases_with_{name}"] = int(has.sum())
        row[f"case_share_{name}"] = float(has[judged].mean()) if has.any() else None
        row[f"voxel_share_{name}"] = medians[name] / total if has.any() else None
        if "fold" in rows:
            row[f"tested_with_{name}"] = int((has & (rows["split"] == "test")).sum())
            row[f"folds_without_{name}"] = folds - rows.loc[has & (rows["fold"] >= 0), "fold"].nunique()
    if "fold" in rows:
        train = rows[rows["fold"] >= 0]
        row["smallest_fold"] = int(min((train["fold"] == fold).sum() for fold in range(folds)))
        row["shared"] = sum(
            int((rows.groupby(name)["fold"].nunique() > 1).sum()) for name in ("patient", "image_hash")
        )
    return pd.DataFrame([row]).replace({None: np.nan})
