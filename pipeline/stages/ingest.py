"""Stage `ingest`: raw scans to calibrated volumes, every case accepted or quarantined with its reason."""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd
import psutil

from pipeline.atomic import atomic_path, locked, remove_partial, write_json
from pipeline.errors import DataError, MissingError
from pipeline.params import IngestParams
from pipeline.progress import console, track
from pipeline.volumes.calibration import Offset, find_offset
from pipeline.volumes.cases import Surveyed, attempt_case, columns, quarantined_row
from pipeline.volumes.geometry import resampled_shape
from pipeline.volumes.hashes import FileIndex
from pipeline.volumes.identity import check_salt
from pipeline.volumes.job import Ingested, Job, Row
from pipeline.volumes.keys import case_key
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.plan import asked, make_plan, planned_spacing
from pipeline.volumes.quarantine import Quarantine
from pipeline.volumes.recipe import Recipe
from pipeline.volumes.source import Source, look
from pipeline.volumes.store import SUFFIX
from pipeline.volumes.workers import Budget, Crew, Outcome, run_each
from pipeline.workspace import home, project_root

BYTES_A_VOXEL = 28
"""Of memory at the peak, for each voxel of the original and of the volume made of it."""
MEMORY_SHARE = 0.8
"""Of what is free, that the workers may hold together."""
Result = TypeVar("Result")


def run(organ: str, params: IngestParams, *, raw: Path, volumes: Path, cases: Path, plans: Path) -> None:
    """Bring `volumes`, the case table and the plan in line with what `raw` holds now.

    Raises:
        DataError: no layout is recognised, or no case at all can be accepted.
        MissingError: there is no room for the volumes.
    """
    check_salt(params.salt)
    # What another run is writing looks like what a killed one has left behind.
    with locked(volumes.with_name(f".{volumes.name}.lock"), f"ingesting {organ}"):
        _ingest(organ, params, raw, volumes, cases, plans, home(project_root()) / "index" / "files.sqlite")


def _ingest(
    organ: str, params: IngestParams, raw: Path, volumes: Path, cases: Path, plans: Path, index: Path
) -> None:
    layout = find_layout(raw, params.layout)
    volumes.mkdir(parents=True, exist_ok=True)
    remove_partial(volumes)
    offset = params.modality == "CT" and params.hu_offset == "auto"
    with Crew() as crew:
        each = partial(_each, params, crew)
        source = look(raw, volumes, layout.cases, index, params.modality, offset, partial(each, "look"))
        recipe = _recipe(params, source)
        rows = _rows(source, recipe, index, partial(each, "ingest"))
    Quarantine(volumes).keep(row for row in rows.values() if row["status"] == "quarantined")
    accepted = {f"{case}{SUFFIX}" for case, row in rows.items() if row["status"] == "accepted"}
    _remove_others(volumes, accepted | {Quarantine.NAME})
    names = columns(recipe.classes)
    table = pd.DataFrame(
        [rows[files.case] | {"layout": layout.name} for files in layout.cases], columns=names
    )
    _write_table(cases, table)
    _tell(organ, table, layout.left_out)
    accepted_rows = table[table["status"] == "accepted"]
    plan = make_plan(accepted_rows, recipe, params.normalisation, params.train_memory_gb)
    write_json(plans, plan | {"asked": asked(params)})


def _recipe(params: IngestParams, source: Source) -> Recipe:
    """How volumes are made: as `params.yaml` says, else as the data ask for."""
    spacings = [one.spacing for one in source.surveyed.values()]
    return Recipe(
        modality=params.modality,
        labels=dict(params.labels),
        spacing=planned_spacing(spacings or [(1.0, 1.0, 1.0)])
        if params.spacing == "auto"
        else params.spacing,
        offset=_offset(params, source),
        mr_scale=params.mr_scale,
        rois={label: list(patterns) for label, patterns in params.rois.items()},
        channels=_channels(source.surveyed.values()),
        annotation=params.annotation.recipe(),
    )


def _offset(params: IngestParams, source: Source) -> Offset:
    if params.modality != "CT":
        return Offset()
    if params.hu_offset != "auto":
        return Offset(params.hu_offset)
    return find_offset([one.peak for one in source.surveyed.values()])


def _channels(surveyed: Iterable[Surveyed]) -> int:
    """As most cases have; the others are refused."""
    counts = [one.channels for one in surveyed] or [1]
    return max(set(counts), key=lambda count: (counts.count(count), count))


def _rows(
    source: Source,
    recipe: Recipe,
    index: Path,
    each: Callable[..., Iterator[Outcome[Job, Ingested]]],
) -> dict[str, Row]:
    """The row of every case, by case: as it stands where nothing changed, else from the files."""
    keys = {
        files.case: case_key(files, source.contents[files.case], recipe)
        for files in source.cases
        if files.case in source.contents
    }
    rows = {case: row for case, row in source.made.items() if row.get("key") == keys.get(case, "")}
    rows |= Quarantine(source.volumes).known(keys)
    jobs = [source.job(files, recipe) for files in source.cases if files.case not in rows]
    began = time.time()
    hashed: dict[Path, str] = {}
    for outcome in each(attempt_case, jobs, partial(_bytes_needed, source)):
        files = outcome.item.files
        if isinstance(outcome.error, MissingError):
            # A full disk is no fault of the case; what is done already is kept.
            raise outcome.error
        if outcome.result is None:
            assert outcome.error is not None, "an outcome has a result or an error"
            rows[files.case] = quarantined_row(files, outcome.error)
        else:
            rows[files.case] = outcome.result.row
            new = outcome.result.hashes.keys() - source.hashes.keys()
            hashed |= {source.raw / path: outcome.result.hashes[path] for path in new}
    FileIndex(index, "sha256").remember(hashed, began)
    return rows


def _each(
    params: IngestParams,
    crew: Crew,
    what: str,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    needs: Callable[[Job], int] | None = None,
) -> Iterator[Outcome[Job, Result]]:
    """Run a function on every job in worker processes, behind a progress bar."""
    if not jobs:
        return
    workers = (os.cpu_count() or 1) if params.workers == "auto" else params.workers
    free = int(MEMORY_SHARE * psutil.virtual_memory().available)
    total = free if params.memory_gb == "auto" else int(params.memory_gb * 1e9)
    budget = Budget(total, needs) if needs else None
    outcomes = run_each(function, jobs, min(workers, len(jobs)), params.timeout_seconds, budget, crew)
    yield from track(outcomes, what, len(jobs))


def _bytes_needed(source: Source, job: Job) -> int:
    """Of memory, for one case, as its header says; nothing, if the header cannot be read."""
    surveyed = source.surveyed.get(job.files.case)
    if surveyed is None:
        return 0
    made = resampled_shape(surveyed.shape, surveyed.spacing, job.recipe.spacing)
    return BYTES_A_VOXEL * job.recipe.channels * (math.prod(surveyed.shape) + math.prod(made))


def _remove_others(volumes: Path, wanted: set[str]) -> None:
    """Remove volumes whose case left the source or is not accepted any more."""
    for path in volumes.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in wanted:
            path.unlink()


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def _tell(organ: str, table: pd.DataFrame, left_out: list[str]) -> None:
    """Say what came of the cases.

    Raises:
        DataError: none is accepted.
    """
    refused = table[table["status"] == "quarantined"].to_dict("records")
    accepted = len(table) - len(refused)
    if not accepted:
        first = refused[0]
        raise DataError(
            f"{organ}: none of {len(table)} cases can be used; the first: {first['reason']}", first["remedy"]
        )
    channels = int(table["channels"].max())
    # Whoever has laid a series over time beside one label map did not mean so many channels.
    each = f" of {channels} channels" if channels > 1 else ""
    console.print(f"{organ}: {len(table)} cases{each}, {accepted} accepted, {len(refused)} quarantined")
    # A name with brackets is no markup.
    for row in refused:
        console.print(f"  quarantined: {row['reason']}: {row['remedy']}", markup=False)
    for phrase in left_out:
        console.print(f"  of no case: {phrase}", markup=False)
    for label, cases in _unsaid(table).items():
        where = f"{len(cases)} cases whose 'annotated' leaves it out, first {cases[0]}"
        console.print(f"  not learned from: {label} in {where}", markup=False)


def _unsaid(table: pd.DataFrame) -> dict[str, list[str]]:
    """By label, the cases that hold it though nobody is said to have looked for it in them."""
    unsaid: dict[str, list[str]] = {}
    told = table[(table["status"] == "accepted") & (table["annotated"] != "")]
    labels = [str(name).removeprefix("voxels_") for name in table if str(name).startswith("voxels_")]
    for row in told.to_dict("records"):
        looked_for = row["annotated"].split(";")
        for label in labels:
            if row[f"voxels_{label}"] > 0 and label not in looked_for:
                unsaid.setdefault(label, []).append(row["case"])
    return unsaid
