"""Hippocampus on this machine: train by the stages, time it, and judge on 60 cases that were kept back.

    python -m benchmarks.hippocampus SOURCE FOLDER [--set train.steps=6000 ...]

SOURCE is the Medical Segmentation Decathlon's hippocampus task (imagesTr, labelsTr, dataset.json). The 60
cases whose file names have the lowest SHA-256 are kept out of the project, a clone of this repository in
FOLDER, which is used again where it is there. Printed: seconds of `dvc repro evaluate@hippocampus`, from raw
scans to an evaluated model, and the mean Dice of what `hounsfield predict` writes for the 60, each part
averaged over the cases.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from benchmarks.gpu.accuracy import summary
from benchmarks.gpu.prepare import ORGAN, split
from benchmarks.projects import configure
from pipeline.metrics.overlap import dice

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", nargs="*", default=[], help="SECTION.KEY=VALUE of params.yaml")
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    project = folder / "project"
    if not project.exists():
        begin(asked.source.absolute(), folder)
    # What is not named is as `add-organ` left it.
    configure(project / "params.yaml", ORGAN, asked.set, afresh=("augment", "train"))
    began = time.perf_counter()
    run(project, "-m", "dvc", "repro", f"evaluate@{ORGAN}")
    seconds = time.perf_counter() - began
    found = folder / "found"
    run(project, "-m", "pipeline", "predict", ORGAN, str(folder / "held_out" / "imagesTr"), str(found))
    print(json.dumps({"set": asked.set, "seconds": round(seconds)} | judged(found, folder / "held_out")))


def begin(source: Path, folder: Path) -> None:
    """Clone the project and give it the cases that are not kept back."""
    project = folder / "project"
    given, _ = split(source, folder)
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(project)], check=True)
    run(project, "-m", "pipeline", "add-organ", ORGAN, "--source", str(given))


def run(project: Path, *arguments: str) -> None:
    """Run a module of the project's own code."""
    environment = os.environ | {"PYTHONPATH": str(project)}
    subprocess.run([sys.executable, *arguments], cwd=project, env=environment, check=True)


def judged(found: Path, held_out: Path) -> dict[str, Any]:
    """Mean Dice of the parts, of each part, and that of the worst case and part."""
    scores = []
    for path in sorted((held_out / "labelsTr").glob("*.nii.gz")):
        truth, best = (np.asarray(nibabel.load(one).dataobj) for one in (path, found / path.name))
        scores.append([dice(truth, best, value) for value in (1, 2)])
    return summary(scores)


if __name__ == "__main__":
    main()
