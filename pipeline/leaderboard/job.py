"""What a system of a leaderboard is made from, and the process that makes it: `one` runs in it.

The process is its own so that its memory is its own, and that a system that breaks takes none with it.
"""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import read_json, write_json
from pipeline.leaderboard.systems import Budget, System

RESULT, PICTURE = "result.json", "worst.png"
"""What the process leaves in its folder."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What the process is told."""

    organ: str
    system: System
    budget: Budget
    profile: str
    train: dict[str, Any]
    """The section of the organ."""
    files: dict[str, str]
    """What the stages before have made, by role."""
    folder: str
    """For all that is made."""
    nsd_tolerance_mm: float
    """As the organ's `evaluate` has it."""


def job_of(path: Path) -> Job:
    """The job that `path` holds."""
    content = read_json(path)
    return Job(**content | {"system": System(**content["system"]), "budget": Budget(**content["budget"])})


def run_apart(job: Job, log: Path, threads: int) -> bool:
    """Run a job in a process of its own; whether it came to its end.

    Args:
        job: to be run.
        log: what the process says is added to it.
        threads: that it computes with.
    """
    written = Path(job.folder) / "job.json"
    write_json(written, asdict(job))
    environment = os.environ | {name: str(threads) for name in THREADS}
    with open(log, "ab") as said:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.leaderboard.one", str(written)],
            env=environment,
            stdout=said,
            stderr=said,
            check=False,
        )
    return done.returncode == 0
