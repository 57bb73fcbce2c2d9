"""Cases in which only some organs are annotated: learn from all of them, or from the complete ones alone?

One network, the same steps, seed and frozen test cases, trained twice: on the patches of all cases, and on
those of the cases in which every label was looked for. What is not annotated is unknown, not background
(the marginal loss); in the test only annotated organs count. In a clone of the project whose organ has come
as far as `augment`:

    python benchmarks/partial_labels.py head_and_neck --steps 600
"""

import argparse
import json
import os
import subprocess
import sys

import pandas as pd

from pipeline.leaderboard import one
from pipeline.leaderboard.systems import Budget, systems
from pipeline.params import load_organ
from pipeline.workspace import project_root, stage_files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("organ")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--network", default="residual_unet")
    given = parser.parse_args()
    root = project_root()
    known = stage_files(root, "train", given.organ) | stage_files(root, "evaluate", given.organ)
    roles = ("raw", "accepted", "patches", "augmentation", "plans", "volumes")
    files = {role: str(root / known[role]) for role in roles}
    section = load_organ(root / "params.yaml", given.organ).train.model_dump(
        mode="json", exclude_defaults=True
    )
    (system,) = systems([given.network])
    results = {}
    for name in ("all", "complete"):
        folder = (
            root / ".hounsfield" / "partial_labels" / f"{given.organ}-{name}-{given.network}-{given.steps}"
        )
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.read_parquet(files["patches"])
        if name == "complete":
            # An empty list of annotated labels means all of them.
            table = table[table["annotated"] == ""].reset_index(drop=True)
        table.to_parquet(folder / "patches.parquet")
        learned = table[table["fold"] != 0]["case"].nunique()
        job = one.Job(
            given.organ,
            system,
            Budget("steps", given.steps),
            "small",
            section.model_dump(mode="json", exclude_defaults=True),
            files | {"patches": str(folder / "patches.parquet")},
            str(folder),
        )
        if not (folder / one.RESULT).is_file():
            one.write_job(folder / "job.json", job)
            command = [sys.executable, "-m", "pipeline.leaderboard.one", str(folder / "job.json")]
            subprocess.run(command, check=True, env=os.environ, cwd=root)
        result = json.loads((folder / one.RESULT).read_text())
        labels = pd.read_csv(folder / "cases.csv").groupby("label", sort=False)["dice"].mean()
        results[name] = {"cases": int(learned), "dice": result["dice"], "labels": labels.round(3).to_dict()}
        print(f"{name}: {learned} cases learned from, mean Dice {result['dice']:.3f}", flush=True)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
