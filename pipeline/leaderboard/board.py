"""All systems of a leaderboard, one process each; what is done already is not done again."""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.atomic import read_json, sha256_code, sha256_file, sha256_json, write_json
from pipeline.errors import MissingError
from pipeline.leaderboard.job import RESULT, Job, run_apart
from pipeline.leaderboard.page import write_page
from pipeline.leaderboard.systems import Budget, System, systems
from pipeline.params import load_organ
from pipeline.progress import console, track
from pipeline.training import CODE
from pipeline.workspace import home, stage_files

LOG, FAILED = "log.txt", "failed.json"


def make(
    root: Path,
    organ: str,
    asked: Sequence[str],
    budget: Budget,
    *,
    profile: str,
    jobs: int,
    target: Path,
    command: str,
) -> tuple[list[dict[str, Any]], Path]:
    """Run the systems that were asked for and write their page; see `run_all` and `write_page`.

    Returns:
        The rows, and the page.
    """
    rows = run_all(root, organ, systems(asked), budget, profile, jobs)
    files = inputs_of(root, organ)
    accepted, first = pd.read_parquet(files["accepted"]), pd.read_parquet(files["patches"]).iloc[0]
    z, y, x = (int(first[f"size_{axis}"]) for axis in "zyx")
    labels = list(load_organ(root / "params.yaml", organ).ingest.labels)
    nothing = chance(accepted[accepted["split"] == "test"], labels)
    return rows, write_page(target, organ, rows, budget, profile, (z, y, x), nothing, command)


def run_all(
    root: Path, organ: str, chosen: Sequence[System], budget: Budget, profile: str, jobs: int = 1
) -> list[dict[str, Any]]:
    """Train and judge every system on what the stages up to `augment` have made of an organ.

    Args:
        root: of the project.
        organ: of `params.yaml`.
        chosen: to stand on the leaderboard.
        budget: of each.
        profile: small or full.
        jobs: systems at a time, each with its share of the processor.

    Returns:
        A row a system, the best mean Dice first; one that failed has `error` and stands last.

    Raises:
        MissingError: the stages before have not been run.
    """
    known = load_organ(root / "params.yaml", organ)
    params, tolerance = known.train, known.evaluate.nsd_tolerance_mm
    files = inputs_of(root, organ)
    for system in chosen:
        system.params(params, profile, 1)
    section = params.model_dump(mode="json", exclude_defaults=True)
    board = home(root) / "leaderboard" / organ
    wanted = {
        system.name: board / _key(system, budget, profile, section, tolerance, files) for system in chosen
    }
    todo = [system for system in chosen if not (wanted[system.name] / RESULT).is_file()]
    if len(todo) < len(chosen):
        console.print(f"{organ}: {len(chosen) - len(todo)} of {len(chosen)} systems are done already")
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        running = {}
        for system in todo:
            inputs = {role: str(path) for role, path in files.items()}
            folder = str(wanted[system.name])
            job = Job(organ, system, budget, profile, section, inputs, folder, tolerance)
            running[pool.submit(_run, job, threads)] = system
        try:
            for done in track(as_completed(running), "leaderboard", len(running)):
                done.result()
                row = _row(running[done], wanted[running[done].name])
                said = row.get("error") or f"Dice {row['dice']:.3f} in {row['seconds']:.0f} s"
                console.print(f"{organ}: {row['system']}: {said}", markup=False)
        except BaseException:
            # Ctrl-C ends the systems that are trained; those that wait would begin only then.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    rows = [_row(system, wanted[system.name]) for system in chosen]
    return sorted(rows, key=lambda row: ("error" in row, -(row.get("dice") or 0), row["system"]))


def _run(job: Job, threads: int) -> None:
    """Run a system, and keep the last that it said if it failed."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).unlink(missing_ok=True)
    if not run_apart(job, folder / LOG, threads):
        last = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        write_json(folder / FAILED, {"error": last[0] if last else "it said nothing"})
        return
    # A finished system needs its checkpoints no more.
    shutil.rmtree(folder / "home", ignore_errors=True)


def _row(system: System, folder: Path) -> dict[str, Any]:
    if (folder / RESULT).is_file():
        return dict(read_json(folder / RESULT)) | {"folder": str(folder)}
    failed = read_json(folder / FAILED) if (folder / FAILED).is_file() else {"error": "was not run"}
    return {"system": system.name, "error": failed["error"], "folder": str(folder)}


def inputs_of(root: Path, organ: str) -> dict[str, Path]:
    """What systems are made from, by role: the files of the stages before.

    Raises:
        MissingError: it is not there.
    """
    known = stage_files(root, "train", organ) | stage_files(root, "evaluate", organ)
    roles = ("raw", "accepted", "patches", "augmentation", "plans", "volumes")
    files = {role: root / known[role] for role in roles}
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        raise MissingError(
            f"{organ}: {missing[0].relative_to(root)} is not there", f"run dvc repro augment@{organ}"
        )
    return files


def _key(
    system: System,
    budget: Budget,
    profile: str,
    section: dict[str, Any],
    tolerance: float,
    files: dict[str, Path],
) -> str:
    """Name of the folder of a system: a hash of all that its line is made of."""
    tables = [sha256_file(files[role]) for role in ("accepted", "patches", "augmentation", "plans")]
    made_of = [asdict(system), asdict(budget), profile, section, tolerance, tables, sha256_code(*CODE)]
    return f"{system.folder}-{sha256_json(made_of)[:16]}"


def chance(accepted: pd.DataFrame, labels: Sequence[str]) -> float:
    """The mean Dice of calling every voxel of an image one label, which takes no learning.

    Args:
        accepted: rows of the test cases.
        labels: their names.
    """
    voxels = accepted[[f"shape_{axis}" for axis in "zyx"]].prod(axis=1)
    ml = accepted[[f"spacing_{axis}" for axis in "zyx"]].prod(axis=1) / 1000 * voxels
    shares = [accepted[f"ml_{name}"] / ml for name in labels]
    # A label that nobody looked for in any of them is in no mean of the systems either.
    return float(pd.Series([(2 * share / (1 + share)).mean() for share in shares]).mean())
