"""One system of a leaderboard, in a process of its own (see `job`): trained, judged, measured.

What is done is written down part by part; killed and run again it goes on from its last checkpoint.
"""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.atomic import atomic_path, read_json, write_json
from pipeline.errors import HounsfieldError
from pipeline.inference.model import build, load_model
from pipeline.leaderboard.job import PICTURE, RESULT, Job, job_of
from pipeline.losses.supervised import supervised_loss
from pipeline.metrics.case_table import read_cases
from pipeline.networks import build_network, plan_network
from pipeline.params import EvaluateParams, NetworkParams, TrainParams
from pipeline.stages import evaluate, train
from pipeline.training.profile import choose_profile, device

TIMED = 3
"""Steps of which the fastest is taken where the budget is one of seconds."""
TRAINED = "trained.json"


def run(job: Job) -> None:
    """Train, judge and measure the system; what came of it is in `RESULT` of its folder.

    Raises:
        HounsfieldError: it cannot be trained or judged.
    """
    folder = Path(job.folder)
    files = {role: Path(path) for role, path in job.files.items()}
    # Checkpoints lie with the rest, and are gone with it.
    os.environ["HOUNSFIELD_HOME"] = str(folder / "home")
    steps = _steps(job, folder / "steps.json")
    params = job.system.params(TrainParams.model_validate(job.train), job.profile, steps)
    models, curves = folder / "models", folder / "curves.csv"
    if not (folder / TRAINED).is_file():
        resumed, began = (folder / "home").is_dir(), time.perf_counter()
        inputs = {role: files[role] for role in ("accepted", "patches", "augmentation", "plans", "volumes")}
        train.run(job.organ, params, **inputs, models=models, curves=curves)
        seconds = time.perf_counter() - began
        write_json(folder / TRAINED, {"seconds": seconds, "resumed": resumed, "memory_mb": _memory()})
    began = time.perf_counter()
    evaluate.run(
        job.organ,
        EvaluateParams(worst_cases=0, nsd_tolerance_mm=job.nsd_tolerance_mm),
        raw=files["raw"],
        accepted=files["accepted"],
        models=models,
        curves=curves,
        metrics=folder / "metrics.json",
        cases=folder / "cases.csv",
        report=folder / "report.html",
    )
    judged = time.perf_counter() - began
    per_case = read_cases(folder / "cases.csv")
    model = load_model(models)
    test = pd.read_parquet(files["accepted"]).loc[lambda table: table["split"] == "test"]
    for case, png in evaluate.worst_pictures(model, per_case, test, files["raw"], 1):
        with atomic_path(folder / PICTURE) as temporary:
            temporary.write_bytes(png)
        worst = case
    members = (model, *model.folds)
    sizes = [_size(one.config) for member in members for one in (member, *member.before)]
    cases = int(test["case"].nunique())
    write_json(
        folder / RESULT,
        {
            "system": job.system.name,
            **figures(per_case),
            "worst_case": worst,
            "cases": cases,
            "parameters": sum(parameters for parameters, _ in sizes),
            "gflops": sum(gflops for _, gflops in sizes),
            "steps": steps * len(sizes),
            **read_json(folder / TRAINED),
            "seconds_a_case": judged / cases,
        },
    )


def figures(per_case: pd.DataFrame) -> dict[str, float | None]:
    """Dice, HD95 (where it is finite) and NSD, means over cases, then labels; the Dice of the worst case."""
    mean = {
        name: per_case.replace([np.inf, -np.inf], np.nan).groupby("label")[name].mean().mean()
        for name in ("dice", "hd95", "nsd")
        if name in per_case
    }
    worst = per_case.groupby("case")["dice"].mean().min()
    return {
        name: None if pd.isna(value) else float(value) for name, value in (mean | {"worst": worst}).items()
    }


def _steps(job: Job, file: Path) -> int:
    """Of each training of a system: of several networks, each has its share."""
    if file.is_file():
        # A budget of seconds gives another number on every look.
        return int(read_json(file)["steps"])
    params = job.system.params(TrainParams.model_validate(job.train), job.profile, 1)
    # Of one network of an ensemble, with those that come before it.
    trainings = 1 if params.before is None else 1 + params.before.folds
    budget = job.budget
    amount = budget.amount / params.ensemble
    total = amount
    if budget.kind != "steps":
        plan = read_json(Path(job.files["plans"]))
        first = pd.read_parquet(job.files["patches"]).iloc[0]
        patch = tuple(int(first[f"size_{axis}"]) for axis in "zyx")
        chosen = [params.network] if params.before is None else [params.network, params.before.network]
        costs = [_cost(one, params, plan, patch, budget.kind) for one in chosen]
        # That of the network, and of the one before as often as it is trained.
        total = trainings * amount / (costs[0] + sum(costs[1:]) * (trainings - 1))
    steps = max(1, int(total / trainings))
    write_json(file, {"steps": steps})
    return steps


def _cost(
    network: NetworkParams, params: TrainParams, plan: dict[str, Any], patch: tuple[int, ...], kind: str
) -> float:
    """Of a step, in seconds or voxels."""
    profile = choose_profile(params, plan.get("batch_size"))
    z, y, x = patch
    options = plan_network(
        network.name, network.options, (z, y, x), plan["spacing"], small=profile.name == "small"
    )
    classes = len(plan["labels"]) + 1
    built = build_network(network.name, len(plan["normalisation"]), classes, options)
    output = built.form.fit(patch)
    if kind == "voxels":
        return float(profile.batch_size * np.prod(output))
    image = torch.randn(profile.batch_size, len(plan["normalisation"]), *built.form.input_size(output))
    label = torch.randint(classes, (profile.batch_size, *output))
    took = []
    for _ in range(TIMED):
        began = time.perf_counter()
        supervised_loss(built(image), built.form.outputs, label, params.loss).backward()  # type: ignore[no-untyped-call]
        took.append(time.perf_counter() - began)
    return min(took)


def _size(config: dict[str, Any]) -> tuple[int, float]:
    """Weights of a network, and the 10^9 multiplications and additions to label one patch."""
    network = build(config).eval()
    patch = config["patch_size"]
    output = network.form.fit(patch)
    image = torch.zeros(1, len(config["normalisation"]), *network.form.input_size(output), device=device())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    parameters = sum(weight.numel() for weight in network.parameters())
    return parameters, float(counter.get_total_flops() / 1e9 * np.prod(patch) / np.prod(output))


def _memory() -> float:
    """The most that the process has held, 10^6 bytes; on a GPU, of its memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    try:
        run(job_of(Path(sys.argv[1])))
    except HounsfieldError as failure:
        print(failure, file=sys.stderr)
        sys.exit(failure.exit_code)
