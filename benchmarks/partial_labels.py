"""Cases in which only some organs are annotated: learn from all of them, or from the complete ones alone?

One network, the same steps, seed and frozen test cases, trained twice: on the patches of all cases, and on
those of the cases in which every label was looked for. What is not annotated is unknown, not background
(the marginal loss); in the test only annotated organs count. In a clone of the project whose organ has come
as far as `augment`:

    python -m benchmarks.partial_labels head_and_neck --steps 2500
"""

import argparse
import json
import os
import sys

import pandas as pd

from pipeline.leaderboard.board import LOG, inputs_of
from pipeline.leaderboard.job import RESULT, Job, run_apart
from pipeline.leaderboard.systems import Budget, systems
from pipeline.params import load_organ
from pipeline.workspace import home, project_root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("organ")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--network", default="residual_unet")
    given = parser.parse_args()
    root = project_root()
    files = {role: str(path) for role, path in inputs_of(root, given.organ).items()}
    known = load_organ(root / "params.yaml", given.organ)
    params, tolerance = known.train, known.evaluate.nsd_tolerance_mm
    section = params.model_dump(mode="json", exclude_defaults=True)
    (system,) = systems([given.network])
    patches = pd.read_parquet(files["patches"])
    # An empty list of annotated labels means all of them.
    tables = {"all": patches, "complete": patches[patches["annotated"] == ""].reset_index(drop=True)}
    results = {}
    for name, table in tables.items():
        folder = home(root) / "partial_labels" / f"{given.organ}-{name}-{system.folder}-{given.steps}"
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / "patches.parquet"
        table.to_parquet(own)
        job = Job(
            given.organ,
            system,
            Budget("steps", given.steps),
            "small",
            section,
            files | {"patches": str(own)},
            str(folder),
            tolerance,
        )
        done = (folder / RESULT).is_file()
        if not done and not run_apart(job, folder / LOG, len(os.sched_getaffinity(0))):
            sys.exit(f"{name}: the training failed, {folder / LOG} says why")
        dice = json.loads((folder / RESULT).read_text())["dice"]
        learned = table[table["fold"] != params.fold]["case"].nunique()
        labels = pd.read_csv(folder / "cases.csv").groupby("label", sort=False)["dice"].mean()
        results[name] = {"cases": int(learned), "dice": dice, "labels": labels.round(3).to_dict()}
        print(f"{name}: {learned} cases learned from, mean Dice {dice:.3f}", flush=True)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
