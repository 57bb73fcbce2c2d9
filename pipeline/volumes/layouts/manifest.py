"""Layout `manifest`: a table at the top of the source with a row a case.

`manifest.csv`, `.tsv` or `.parquet` with the columns

* ``image``, or ``image_0``, ``image_1``, ..., or ``channel_NAME`` in the order of the columns: a path;
  a folder stands for the DICOM slices in it;
* ``label``, a label map, and/or ``label:ORGAN``, the mask of one organ;
* ``patient`` or ``patient_id``: rows of one patient stay on one side of every split;
* where wanted ``case``, and ``annotated``: labels that somebody looked for, separated by ';'.

Paths are relative to the source. Patients are called by a pseudonym from here on.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError
from pipeline.volumes.layouts.description import (
    NAME,
    CaseFacts,
    declared,
    declared_modality,
    describe,
    document,
    patient_key,
)
from pipeline.volumes.layouts.layout import Layout
from pipeline.volumes.layouts.listed import Entry, listed_cases

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("manifest.csv", "manifest.tsv", "manifest.parquet")
PATIENT = ("patient", "patient_id")
ORGAN = "label:"


@dataclass(frozen=True)
class _Columns:
    """Which column says what."""

    images: list[str]
    masks: dict[str, str | None]
    """Organ by column; None: a label map."""
    patient: str


def find(source: Path) -> Layout | None:
    """The cases that a manifest names; None without one.

    Raises:
        DataError: it cannot be read, lacks a column, has no row, or there are several.
        MissingError: there is no secret to name patients by.
    """
    paths = [source / name for name in NAMES if (source / name).is_file()]
    if not paths:
        return None
    if len(paths) > 1:
        raise DataError(f"{source} holds {' and '.join(path.name for path in paths)}", "keep one of them")
    rows = _rows(paths[0])
    columns = _columns(paths[0], list(rows[0]) if rows else [])
    entries = [
        _entry(f"row {number}", row, columns) for number, row in enumerate(rows, start=2) if any(row.values())
    ]
    cases = listed_cases(source, entries)
    description = describe(source / NAME)
    return Layout(
        "manifest",
        cases,
        declared(description, cases),
        declared_modality(description),
        documents=(Path(paths[0].name), *document(source, NAME)),
    )


def _rows(path: Path) -> list[dict[str, str]]:
    """The table's rows, as text without spaces around it; empty where a cell is."""
    try:
        table = _table(path)
    except (ValueError, OSError) as error:
        said = (str(error).splitlines() or [""])[0][:120]
        raise DataError(
            f"{path.name} cannot be read as a table ({said})", f"save it as {path.suffix} in UTF-8"
        ) from None
    if table.empty:
        raise DataError(f"{path.name} has no row", "give it a row a case")
    names = [str(column).strip() for column in table.columns]
    return [
        {name: _text(cell) for name, cell in zip(names, cells, strict=True)}
        for cells in table.itertuples(index=False, name=None)
    ]


def _table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if path.suffix == ".parquet":
        # Whole numbers stay whole where some are missing: patient 7 is not patient 7.0.
        return pd.read_parquet(path, dtype_backend="numpy_nullable")
    separator = "," if path.suffix == ".csv" else "\t"
    with warnings.catch_warnings():
        # Without `index_col` longer rows would shift all names by a column; with it they lose a cell.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False
            )
        except pd.errors.ParserWarning:
            raise ValueError("its rows are longer than its header") from None


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell.strip()
    if hasattr(cell, "__iter__"):
        return ";".join(map(str, cell))
    # NaN, the only number that is not itself, None and pandas' NA are all an empty cell.
    return "" if cell is None or str(cell) in ("<NA>", "nan") else str(cell)


def _columns(path: Path, names: Sequence[str]) -> _Columns:
    """Which column says what.

    Raises:
        DataError: one is missing, or the channels are named in more than one way.
    """
    numbered = sorted(
        (name for name in names if re.fullmatch(r"image_\d+", name)), key=lambda name: int(name.split("_")[1])
    )
    ways = [
        [name for name in names if name == "image"],
        numbered,
        [n for n in names if n.startswith("channel_")],
    ]
    used = [way for way in ways if way]
    if len(used) > 1:
        raise DataError(
            f"{path.name} names images by {' and '.join(way[0] for way in used)}",
            "name all columns in one way",
        )
    masks: dict[str, str | None] = {"label": None} if "label" in names else {}
    masks |= {name: name.removeprefix(ORGAN).strip() for name in names if name.startswith(ORGAN)}
    patients = [name for name in PATIENT if name in names]
    missing = [
        wanted
        for wanted, there in (
            ("image", used),
            ("label", masks),
            ("patient", patients),
        )
        if not there
    ]
    if missing:
        raise DataError(
            f"{path.name} has no column {' and no column '.join(missing)}; it has {', '.join(names)[:200]}",
            "add it (see docs/add-your-own-organ.md)",
        )
    return _Columns(used[0], masks, patients[0])


def _entry(where: str, row: dict[str, str], columns: _Columns) -> Entry:
    patient, annotated = row[columns.patient], row.get("annotated", "")
    facts = CaseFacts(
        patient_key(patient) if patient else None,
        tuple(label.strip() for label in annotated.split(";") if label.strip()) or None,
        None if patient else f"{where} names no patient",
        patient,
    )
    return Entry(
        where,
        tuple(row[column] for column in columns.images),
        tuple((organ, row[column]) for column, organ in columns.masks.items()),
        row.get("case", ""),
        facts,
    )
