"""Every network of the catalogue goes the whole way: trained, judged, used, on a small phantom."""

import json
from pathlib import Path

import nibabel
import pytest

from pipeline.cli import run_stage
from pipeline.networks import names
from pipeline.networks.compositions import NAMED
from pipeline.prediction.predict import predict_scans
from tests.conftest import Project

ORGAN = "abdomen"


@pytest.mark.parametrize("name", [*names(), *NAMED, "monai:SegResNet"])
def test_network_is_trained_judged_and_used(
    project: Project, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "home"))
    train = {"profile": "small", "steps": 2, "validate_every": 2, "network": {"name": name}}
    project.set_params(organs__abdomen__train=train)
    run_stage("train", ORGAN)
    run_stage("evaluate", ORGAN)
    measured = json.loads((project.folder / f"metrics/{ORGAN}.json").read_text())
    assert 0 <= measured["dice"]["mean"] <= 1
    scan = sorted((project.folder / f"data/raw/{ORGAN}/imagesTr").iterdir())[0]
    summary = predict_scans(project.folder, ORGAN, scan, tmp_path / "out.nii.gz", "latest")
    assert summary.failed == {}
    assert nibabel.load(tmp_path / "out.nii.gz").shape == nibabel.load(scan).shape
