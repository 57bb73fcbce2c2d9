import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import write_json
from pipeline.params import AugmentParams

ROOT = Path(__file__).parents[3]
ORGAN = "liver"
SIZE = 8
SHAPE = (12, 12, 12)


@pytest.fixture
def project(empty_project):
    """An empty project to run stages in."""
    return empty_project


@pytest.fixture
def prepared(project):
    """The same with all that `augment` and `train` read: four cases, each a bright box in noise.

    The first two are of fold 0, the others of fold 1; each has a class on the left and one on the right.
    """
    from pipeline.volumes.recipe import Recipe
    from pipeline.volumes.store import SUFFIX, write_case

    rows = []
    for number in range(4):
        case = f"case_{number}"
        image, label = box(number)
        write_case(project / "data" / "volumes" / ORGAN / f"{case}{SUFFIX}", image, label, {})
        for turn in range(4):
            kind = ("foreground", "background")[turn % 2]
            row = {"case": case, "fold": number // 2, "key": f"key of {case}", "kind": kind, "annotated": ""}
            rows.append(row | {"z": 3 + turn, "y": 6, "x": 4 + turn})
    table = pd.DataFrame(rows).assign(weight=1.0, **{f"size_{axis}": SIZE for axis in "zyx"})
    (project / "data" / "patches").mkdir()
    table.to_parquet(project / "data" / "patches" / f"{ORGAN}.parquet")
    accepted = table[["case", "fold", "key", "annotated"]].drop_duplicates().assign(split="train")
    accepted["split_rule"] = "2 folds, seed 0"
    facts = {"spacing_z": 2.0, "spacing_y": 1.0, "spacing_x": 1.0, "histogram": json.dumps([1 / 64] * 64)}
    (project / "data" / "accepted").mkdir()
    accepted.assign(**facts, scanner="", ml_near=0.18, ml_far=0.24).to_parquet(
        project / "data" / "accepted" / f"{ORGAN}.parquet"
    )
    plan = {
        "modality": "CT",
        "labels": {"near": 5, "far": 2},
        "recipe": asdict(Recipe("CT", {"near": 5, "far": 2}, (2.0, 1.0, 1.0))),
        "spacing": [2.0, 1.0, 1.0],
        "normalisation": [{"image": 0, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}],
        "patch_size": [SIZE] * 3,
    }
    write_json(project / "data" / "plans" / f"{ORGAN}.json", plan)
    policy = {"params": AugmentParams().model_dump(mode="json"), "spacing": plan["spacing"]}
    write_json(project / "data" / "augmentation" / f"{ORGAN}.json", policy)
    return project


def box(number):
    rng = np.random.default_rng(number)
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 3:8, 2 + number % 2 : 6] = 1
    label[4:9, 4:10, 7:11] = 2
    intensity = np.array([-200.0, 100.0, 300.0])[label]
    return (intensity + rng.normal(0, 30, SHAPE)).astype(np.float32), label
