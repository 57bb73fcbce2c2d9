"""Hippocampus on a GPU: train by the stage, time it, and judge on the 60 cases that were kept back.

    python -m benchmarks.gpu.accuracy FOLDER [--seeds 0 1 2] [--set train.learning_rate=0.002] [--out FOLDER]

FOLDER holds `project` and `held_out` as `prepare.py` made and `volumes.py` unpacked them. Seconds are
those of the whole command `hounsfield train`, its imports, compilation and checkpoints included. All
cases have the spacing of the plan, so that what is judged is what `predict` writes. Of several seeds
the ensemble is judged, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.projects import configure
from pipeline.inference.model import build
from pipeline.inference.sliding_window import probabilities
from pipeline.metrics.overlap import dice
from pipeline.training.normalisation import normalise
from pipeline.training.profile import device, precision
from pipeline.volumes.store import read_case

ORGAN = "hippocampus"
REPOSITORY = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], help="SECTION.KEY=VALUE of params.yaml")
    parser.add_argument("--out", type=Path, help="keep the models here")
    asked = parser.parse_args()
    shares: list[list[torch.Tensor]] = []
    for seed in asked.seeds:
        seconds, said = trained(asked.folder, [*asked.set, f"train.seed={seed}"])
        model = asked.folder / "project" / "models" / ORGAN
        shares.append(predicted(model, asked.folder / "held_out"))
        if asked.out:
            shutil.copytree(model, asked.out / f"seed_{seed}", dirs_exist_ok=True)
        found = judged(shares[-1], asked.folder / "held_out")
        report = {"set": asked.set, "seed": seed, "seconds": seconds} | found
        print("\n".join(said.splitlines()[-14:]), json.dumps(report), sep="\n", flush=True)
    if len(shares) > 1:
        mean = [torch.stack(list(case)).mean(dim=0) for case in zip(*shares, strict=True)]
        print(json.dumps({"ensemble of": len(shares)} | judged(mean, asked.folder / "held_out")))


def trained(folder: Path, settings: list[str]) -> tuple[float, str]:
    """Seconds of the command, and what it said."""
    project = folder / "project"
    path = project / "params.yaml"
    configure(path, ORGAN, settings)
    resolve_augmentation(project, yaml.safe_load(path.read_text()))
    # The project is data alone; its code is here.
    places = f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"
    home = {"HOUNSFIELD_HOME": str(folder / "home"), "PYTHONPATH": places}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "train", ORGAN],
        cwd=project,
        env=os.environ | home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    return round(time.perf_counter() - began, 1), done.stdout


def resolve_augmentation(project: Path, params: dict[str, Any]) -> None:
    """Write into the policy what stage `augment` would resolve `augment.KEY` to."""
    path = project / "data" / "augmentation" / f"{ORGAN}.json"
    policy = json.loads(path.read_text())
    policy["params"] |= params["organs"][ORGAN].get("augment", {})
    path.write_text(json.dumps(policy))


def predicted(model: Path, held_out: Path) -> list[torch.Tensor]:
    """Probabilities (classes, Z, Y, X) of each case."""
    from safetensors.torch import load_file

    config = json.loads((model / "config.json").read_text())
    network = build(config)
    network.load_state_dict(load_file(model / "weights.safetensors"))
    network.eval()
    found = []
    for path in sorted(held_out.glob("*.b2nd")):
        image = normalise(torch.from_numpy(read_case(path).image).to(device()), config["normalisation"])
        classes = len(config["labels"]) + 1
        found.append(probabilities(network, image, config["patch_size"], classes, precision(None, device())))
    return found


def judged(shares: list[torch.Tensor], held_out: Path) -> dict[str, Any]:
    """Mean Dice of the parts and cases, of each part, and that of the worst case."""
    scores = []
    for path, share in zip(sorted(held_out.glob("*.b2nd")), shares, strict=True):
        truth, best = read_case(path).label, share.argmax(dim=0).cpu().numpy()
        scores.append([dice(truth, best, value) for value in range(1, len(share))])
    return summary(scores)


def summary(scores: list[list[float]]) -> dict[str, Any]:
    """Of Dice by case and part: the means, and the worst of all."""
    parts = np.mean(scores, axis=0)
    return {
        "cases": len(scores),
        "dice": round(float(parts.mean()), 4),
        "parts": [round(float(part), 4) for part in parts],
        "worst": round(float(np.min(scores)), 4),
    }


if __name__ == "__main__":
    main()
