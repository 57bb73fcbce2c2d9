"""What is known of a folder of raw scans before a voxel is read: files, hashes, headers, what was made."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.atomic import sha256_json
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.cases import Surveyed, row_of, survey_case
from pipeline.volumes.hashes import FileIndex
from pipeline.volumes.job import Job, Row
from pipeline.volumes.keys import content_key
from pipeline.volumes.recipe import Recipe
from pipeline.volumes.store import SUFFIX
from pipeline.volumes.workers import Outcome

ASKED_FIRST, ASKED_MORE = 3, 15
"""Cases whose voxels are looked at before the offset of a CT is known; more, if one needs an offset."""
Survey = Callable[[Callable[[Job], Surveyed], list[Job]], Iterator[Outcome[Job, Surveyed]]]
"""Runs a function on many jobs in processes of their own: a header, too, can crash a library."""


@dataclass(frozen=True)
class Source:
    """Raw scans and the volumes that were made of them before."""

    raw: Path
    volumes: Path
    cases: list[CaseFiles]
    hashes: dict[Path, str]
    """By path relative to `raw`, of files that nobody touched since they were hashed."""
    made: dict[str, Row]
    """Rows of the volumes there are, by case."""
    contents: dict[str, str]
    """What each case consists of now, by case; those whose files must be hashed first are missing."""
    surveyed: dict[str, Surveyed]
    """Headers, by case."""

    @property
    def complete(self) -> list[CaseFiles]:
        """Cases with an image and something to learn from."""
        return [files for files in self.cases if files.complete]

    def job(self, files: CaseFiles, recipe: Recipe, asks_for_offset: bool = False) -> Job:
        """The job of making one case."""
        known = {path: self.hashes[path] for path in files.paths if path in self.hashes}
        return Job(files, self.raw, self.volumes, recipe, known, asks_for_offset)


def look(
    raw: Path,
    volumes: Path,
    cases: list[CaseFiles],
    index: Path,
    modality: str,
    offset: bool,
    survey: Survey,
) -> Source:
    """Everything that can be known of `cases` without reading again what was read before.

    Args:
        raw: the folder of scans.
        volumes: the folder of volumes.
        cases: of a layout.
        index: what is known of files; see `FileIndex`.
        modality: CT or MR.
        offset: whether the offset of a CT must be found.
        survey: how a function is run on many jobs.
    """
    paths = {raw / path: path for files in cases for path in files.paths}
    known = FileIndex(index, "sha256").known(paths)
    hashes = {paths[path]: sha256 for path, sha256 in known.items()}
    contents = {
        files.case: content_key(files, hashes)
        for files in cases
        if all(path in hashes for path in files.paths)
    }
    made = _made(volumes, cases, FileIndex(index, "row"))
    source = Source(raw, volumes, cases, hashes, made, contents, {})
    return replace(source, surveyed=_survey(source, modality, offset, survey))


def _made(volumes: Path, cases: list[CaseFiles], index: FileIndex) -> dict[str, Row]:
    """The rows of the volumes there are, by case."""
    since = time.time()
    paths = {files.case: volumes / f"{files.case}{SUFFIX}" for files in cases}
    known = index.known(paths.values())
    made: dict[str, Row] = {}
    new: dict[Path, str] = {}
    for case, path in paths.items():
        row = json.loads(known[path]) if path in known else row_of(path)
        if row is not None:
            made[case] = row
            new |= {} if path in known else {path: json.dumps(row)}
    index.remember(new, since)
    return made


def _survey(source: Source, modality: str, offset: bool, survey: Survey) -> dict[str, Surveyed]:
    """Shape and spacing of every complete case; of some CTs, where soft tissue lies."""
    surveyed = {
        files.case: _as_measured(source.made[files.case])
        for files in source.complete
        if source.made.get(files.case, {}).get("content") == source.contents.get(files.case, "")
        # Volumes of earlier releases do not say it.
        and "channels" in source.made[files.case]
    }
    # Which cases are asked depends on their names alone: others that come later change little.
    in_turn = sorted(source.complete, key=lambda files: sha256_json(files.case)) if offset else []
    first, more = in_turn[:ASKED_FIRST], in_turn[ASKED_FIRST:ASKED_MORE]
    # What a header says does not depend on the recipe.
    recipe = Recipe(modality, {}, (1.0, 1.0, 1.0))

    def ask(cases: list[CaseFiles], voxels: bool) -> None:
        jobs = [source.job(files, recipe, voxels) for files in cases if files.case not in surveyed]
        for outcome in survey(survey_case, jobs):
            # A case that cannot be read is refused, with this reason, when its turn comes.
            if outcome.result is not None:
                surveyed[outcome.item.files.case] = outcome.result

    ask(first, True)
    needed = any(surveyed[files.case].peak is not None for files in first if files.case in surveyed)
    ask(more if needed else [], True)
    ask(source.complete, False)
    asked = {files.case for files in (*first, *(more if needed else []))}
    return {case: one if case in asked else replace(one, peak=None) for case, one in surveyed.items()}


def _as_measured(row: Row) -> Surveyed:
    """As the row of a volume tells that was made of the same files."""
    nz, ny, nx = (int(row[f"shape_{axis}"]) for axis in "zyx")
    z, y, x = (float(row[f"spacing_{axis}"]) for axis in "zyx")
    return Surveyed((nz, ny, nx), (z, y, x), row["stored_peak"], row["channels"])
