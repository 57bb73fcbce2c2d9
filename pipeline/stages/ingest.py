"""Stage `ingest`: raw scans to calibrated volumes, every case accepted or quarantined with its reason."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from pipeline.atomic import atomic_path, remove_partial, write_json
from pipeline.errors import DataError, HounsfieldError, MissingError
from pipeline.params import IngestParams
from pipeline.progress import console, track
from pipeline.volumes.cases import Job, Recipe, Row, columns, ingest_case
from pipeline.volumes.geometry import Triple
from pipeline.volumes.layouts import CaseFiles, find_layout
from pipeline.volumes.plan import make_plan, planned_spacing
from pipeline.volumes.readers import read_geometry
from pipeline.volumes.workers import run_each


def run(organ: str, params: IngestParams, *, raw: Path, volumes: Path, cases: Path, plans: Path) -> None:
    """Bring `volumes`, the case table and the plan in line with what `raw` holds now.

    Raises:
        DataError: no layout is recognised, or no case at all can be accepted.
        MissingError: there is no room for the volumes.
    """
    found = find_layout(raw).cases
    spacing = _spacing(params, raw, found)
    recipe = Recipe(params.modality, dict(params.labels), spacing, params.hu_offset)
    volumes.mkdir(parents=True, exist_ok=True)
    remove_partial(volumes)
    jobs = [Job(files, raw, volumes, recipe) for files in found]
    rows = _rows(jobs, params)
    _remove_others(volumes, {job.volume for job in jobs if rows[job.files.case]["status"] == "accepted"})
    table = pd.DataFrame([rows[files.case] for files in found], columns=columns(recipe.classes))
    _write_table(cases, table)
    accepted = table[table["status"] == "accepted"]
    if accepted.empty:
        first = table.iloc[0]
        raise DataError(
            f"{organ}: none of {len(table)} cases can be used; the first: {first['reason']}", first["remedy"]
        )
    write_json(plans, make_plan(accepted, recipe))
    console.print(
        f"{organ}: {len(table)} cases, {len(accepted)} accepted, {len(table) - len(accepted)} quarantined"
    )
    for row in table[table["status"] == "quarantined"].to_dict("records"):
        # A name with brackets is no markup.
        console.print(f"  quarantined: {row['reason']}: {row['remedy']}", markup=False)


def _spacing(params: IngestParams, raw: Path, found: Iterable[CaseFiles]) -> Triple:
    """As `params.yaml` says, else planned from the headers of the cases that have both files."""
    if params.spacing != "auto":
        return params.spacing
    spacings = []
    for files in found:
        if files.image is not None and files.label is not None:
            try:
                spacings.append(read_geometry(raw / files.image).spacing)
            except DataError:
                continue  # The case itself is refused, with this reason, when it is read.
    if not spacings:
        raise DataError(f"{raw}: no case has a readable image and a label: nothing to plan the spacing from.")
    return planned_spacing(spacings)


def _rows(jobs: list[Job], params: IngestParams) -> dict[str, Row]:
    """The row of every case, by case."""
    workers = (os.cpu_count() or 1) if params.workers == "auto" else params.workers
    outcomes = run_each(ingest_case, jobs, min(workers, len(jobs)))
    rows: dict[str, Row] = {}
    for outcome in track(outcomes, "ingest", len(jobs)):
        if isinstance(outcome.error, MissingError):
            # A full disk is no fault of the case; what is done already is kept.
            raise outcome.error
        files = outcome.item.files
        rows[files.case] = outcome.result or _quarantined(files, outcome.error)
    return rows


def _quarantined(files: CaseFiles, error: HounsfieldError | None) -> Row:
    """The row of a case that cannot be used."""
    assert error is not None, "an outcome has a result or an error"
    named = files.case in error.reason
    return {
        "case": files.case,
        "patient": files.patient,
        "status": "quarantined",
        "reason": error.reason if named else f"{files.case}: {error.reason}",
        "remedy": error.remedy,
        "image": str(files.image or ""),
        "label": str(files.label or ""),
        "key": "",
        "notes": "",
    }


def _remove_others(volumes: Path, wanted: set[Path]) -> None:
    """Remove volumes whose case left the source or is not accepted any more."""
    for path in volumes.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in wanted:
            path.unlink()


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)
