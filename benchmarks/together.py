"""Trainings that share the cores: what it saves that a thread which waits for others sleeps soon.

    python -m benchmarks.together PROJECT ORGAN [--at-once 2] [--steps 40] [--rounds 3]

PROJECT is one in which `dvc repro augment@ORGAN` has run; it stays as it is. A training of a few steps is
run alone, and several of them at once, with the number of spins that OpenMP has by itself and with ours, in
turn. Printed: seconds until the last has ended and the CPU seconds of all, medians, and their ratios.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.projects import configure
from pipeline.cli import SPINS

WAYS = {"as OpenMP has it": "300000", "ours": SPINS}
IGNORED = shutil.ignore_patterns(".hounsfield", ".git", ".dvc", "raw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("organ")
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    taken: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(asked.rounds):
        for count in (1, asked.at_once):
            for way, spins in WAYS.items():
                with tempfile.TemporaryDirectory() as scratch:
                    copies = [Path(scratch) / str(number) for number in range(count)]
                    for copy in copies:
                        shutil.copytree(asked.project, copy, ignore=IGNORED)
                        configure(copy / "params.yaml", asked.organ, [f"train.steps={asked.steps}"])
                    taken.setdefault((count, way), []).append(trained(copies, asked.organ, spins))
    for count in dict.fromkeys((1, asked.at_once)):
        medians = {
            way: [round(statistics.median(times), 1) for times in zip(*taken[count, way], strict=True)]
            for way in WAYS
        }
        theirs, ours = medians.values()
        ratios = [round(other / own, 2) for other, own in zip(theirs, ours, strict=True)]
        print(json.dumps({"at once": count, "seconds and CPU seconds": medians, "ratios": ratios}))


def trained(projects: list[Path], organ: str, spins: str) -> tuple[float, float]:
    """Seconds until all are trained, and the CPU seconds of all."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    running = []
    for project in projects:
        changed = {"GOMP_SPINCOUNT": spins, "HOUNSFIELD_HOME": str(project / "home")}
        command = [sys.executable, "-m", "pipeline", "train", organ]
        environment = os.environ | changed | {"PYTHONPATH": str(project)}
        running.append(subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.DEVNULL))
    for process in running:
        if process.wait():
            sys.exit(f"a training ended with {process.returncode}")
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, sum(after[:2]) - sum(before[:2])


if __name__ == "__main__":
    main()
