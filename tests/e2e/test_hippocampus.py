"""Real MR, from a folder of scans to label maps, by the commands that people type."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from pipeline.metrics.overlap import dice
from tests.conftest import Project

CASES = 40
LABELS = {"anterior": 1, "posterior": 2}


def subset(source: Path, target: Path) -> None:
    """The first cases and every orphan of the data set, in its own layout."""
    names = {kind: {path.name for path in (source / kind).iterdir()} for kind in ("imagesTr", "labelsTr")}
    pairs = sorted(names["imagesTr"] & names["labelsTr"])[:CASES]
    orphans = names["imagesTr"] ^ names["labelsTr"]
    for kind in names:
        (target / kind).mkdir(parents=True)
        for name in {*pairs, *orphans} & names[kind]:
            shutil.copyfile(source / kind / name, target / kind / name)
    shutil.copyfile(source / "dataset.json", target / "dataset.json")


def test_from_a_folder_of_scans_to_label_maps(real_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    subset(real_data / "hippocampus", source)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    project.hounsfield("add-organ", "hippocampus", "--source", str(source))
    train = {"steps": 60, "validate_every": 60, "network": {"channels": [8, 16, 32]}}
    project.set_params(organs__hippocampus__train=train)
    project.dvc("repro", "evaluate@hippocampus")

    table = pd.read_parquet(project.folder / "data/cases/hippocampus.parquet")
    refused = table[table["status"] == "quarantined"].set_index("case")["reason"].to_dict()
    assert len(table) == CASES + 3
    assert {case: reason.split(": ")[1] for case, reason in refused.items()} == {
        "hippocampus_010": "label without an image",
        "hippocampus_118": "image without a label",
        "hippocampus_281": "label without an image",
    }
    # Far above what guessing gives (a box in the middle reaches 0.3), far below a full training.
    metrics = json.loads((project.folder / "metrics/hippocampus.json").read_text())
    assert metrics["dice"]["mean"] > 0.5

    accepted = pd.read_parquet(project.folder / "data/accepted/hippocampus.parquet")
    tested = accepted[accepted["split"] == "test"].iloc[0]
    scan, drawn = (f"{kind}Tr/{tested['case']}.nii.gz" for kind in ("images", "labels"))
    project.hounsfield("predict", "hippocampus", str(source / scan), str(tmp_path / "out.nii.gz"))
    truth, found = nibabel.load(source / drawn), nibabel.load(tmp_path / "out.nii.gz")
    assert truth.shape == found.shape
    np.testing.assert_allclose(truth.affine, found.affine, atol=1e-4)
    per_case = pd.read_csv(project.folder / "reports/hippocampus/cases.csv").set_index(["case", "label"])[
        "dice"
    ]
    for label, value in LABELS.items():
        own = dice(np.asarray(truth.dataobj, np.uint8), np.asarray(found.dataobj), value)
        np.testing.assert_allclose(own, per_case[tested["case"], label], atol=1e-5)
