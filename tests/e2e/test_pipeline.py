"""The whole way on a small phantom, by the commands that people type."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from pipeline.atomic import sha256_file
from pipeline.errors import MissingError
from pipeline.lockfile import mend
from pipeline.workspace import STAGES
from tests.conftest import Project

TRAIN = {"steps": 12, "checkpoint_every": 3, "validate_every": 6, "network": {"channels": [8, 16, 32]}}
REMEMBERED = {"train": "checkpoints", "register": "mlflow.db"}
"""What a stage finds in the home of its work before; without it, it has to do it again."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Run once from end to end; tests leave it with every stage up to date."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.set_params(
        organs__abdomen__train=TRAIN,
        organs__abdomen__ingest__spacing="auto",
        # The small phantom has thick slices and few patients.
        organs__abdomen__validate={"spacing_range": [0.1, 20], "test_share": 0.3},
        organs__abdomen__register={"minimum_dice": 0},
    )
    project.hounsfield("phantom", "--patients", "12", "--size", "0.5")
    project.commit("small")
    assert project.ran(project.dvc("repro")) == [f"{stage}@abdomen" for stage in STAGES]
    project.commit("first run")
    return project


def outputs(project: Project) -> dict[str, str]:
    """Hash of every output of every stage, by path, as they lie in the workspace."""
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())
    paths = [project.folder / out["path"] for stage in lock["stages"].values() for out in stage["outs"]]
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return {str(file.relative_to(project.folder)): sha256_file(file) for file in files if file.is_file()}


def test_everything_that_is_declared_is_there_and_a_second_repro_does_nothing(project: Project) -> None:
    assert len(outputs(project)) > 20
    assert project.ran(project.dvc("repro")) == []
    assert "up to date" in project.dvc("status")


def test_results_tell_dice_report_and_champion(project: Project) -> None:
    said = project.hounsfield("results")
    assert "left_kidney" in said
    assert "reports/abdomen/report.html" in said
    assert "challenger beside champion: reports/abdomen/decision.html" in said
    assert "version 1 is the registered champion" in said
    card = project.hounsfield("card", "abdomen")
    assert card.startswith("# abdomen, version 1\n")
    assert "| left_kidney |" in card
    assert "There is no champion yet" in card
    found = json.loads(project.hounsfield("results", "--json"))
    assert found[0]["champion"] == 1


def test_lineage_walks_from_the_champion_to_its_raw_cases(project: Project) -> None:
    told = json.loads(project.hounsfield("lineage", "abdomen", "--cases", "--json"))
    assert (told["whole"], told["champion"]) == (True, True)
    stages = ["train", "augment", "patches", "validate", "ingest"]
    assert [link["what"] for link in told["links"]][3:8] == stages
    accepted = pd.read_parquet(project.folder / "data/accepted/abdomen.parquet")
    assert {case["case"]: case["key"] for case in told["cases"]} == dict(
        zip(accepted["case"], accepted["key"], strict=True)
    )
    assert {(case["files"], case["missing"]) for case in told["cases"]} == {(2, 0)}
    assert told["commands"][0] == f"git checkout {project.run('git', 'rev-parse', 'HEAD').strip()}"


def test_dvc_shows_metrics_and_plots_and_runs_experiments(project: Project) -> None:
    assert "dice.mean" in project.dvc("metrics", "show")
    assert "index.html" in project.dvc("plots", "show")
    said = project.dvc("exp", "run", "-S", "organs.abdomen.train.steps=9", "evaluate@abdomen")
    assert project.ran(said) == ["train@abdomen", "evaluate@abdomen"]
    assert "dice.mean" in project.dvc("metrics", "diff")
    for file, axes in (("curves", ("step", "dice")), ("cases", ("truth_ml", "predicted_ml"))):
        target = f"reports/abdomen/{file}.csv"
        plot = json.loads(project.dvc("plots", "diff", "HEAD", "--targets", target, "--show-vega"))
        points = {point["rev"]: [float(point[axis]) for axis in axes] for point in plot["data"]["values"]}
        assert points.keys() == {"HEAD", "workspace"}
    project.run("git", "checkout", "-q", "--force", "HEAD")
    project.dvc("checkout", "-q")
    assert "up to date" in project.dvc("status")


def test_a_parameter_of_one_stage_reruns_it_and_what_follows(project: Project) -> None:
    project.set_params(organs__abdomen__evaluate={"worst_cases": 1})
    assert project.ran(project.dvc("repro")) == ["evaluate@abdomen", "register@abdomen"]
    project.run("git", "checkout", "-q", "--force", "HEAD")
    assert project.ran(project.dvc("repro")) == []


def test_a_changed_label_makes_one_case_anew(project: Project) -> None:
    label = sorted((project.folder / "data/raw/abdomen/labelsTr").glob("*.nii.gz"))[2]
    original = label.read_bytes()
    image = nibabel.load(label)
    changed = np.asarray(image.dataobj).copy()
    changed[changed == 2] = 0
    nibabel.save(nibabel.Nifti1Image(changed, image.affine, image.header), label)
    before = {path: path.stat().st_mtime_ns for path in (project.folder / "data/volumes/abdomen").iterdir()}
    project.dvc("repro", "ingest@abdomen")
    written = [path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns]
    assert written == [label.name.replace(".nii.gz", ".b2nd")]
    label.write_bytes(original)
    project.dvc("repro")
    project.run("git", "checkout", "-q", "--force", "HEAD")
    assert "up to date" in project.dvc("status")


def test_a_lock_that_was_cut_short_costs_nothing(project: Project) -> None:
    lock, undisturbed = project.folder / "dvc.lock", outputs(project)
    whole = lock.read_text()
    for stage in ("evaluate", "train"):
        lock.write_text(whole[: whole.index("- path", whole.index(f"{stage}@abdomen")) + 4])
        project.dvc("repro", code=255)
        said = json.loads(project.hounsfield("doctor", "--json", code=MissingError.exit_code))
        assert "git checkout dvc.lock" in next(check["remedy"] for check in said if check["name"] == "DVC")
        assert mend(project.folder)
        # Its outputs lie in the repository, not in DVC's cache; it repeats a decision, it makes none.
        assert project.ran(project.dvc("repro")) == ["register@abdomen"]
        assert outputs(project) == undisturbed


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_moment_is_made_whole_by_the_next_repro(project: Project, stage: str) -> None:
    undisturbed, lock = outputs(project), (project.folder / "dvc.lock").read_text()
    forget_home(project, stage)
    delay = random.Random(stage).uniform(0.2, 3.0)
    forget(project, stage)
    while not kill(project, stage, delay):
        # It had ended before, and DVC may have been killed while it wrote its book.
        (project.folder / "dvc.lock").write_text(lock)
        delay /= 2
        forget(project, stage)
    # DVC itself may have been killed while it wrote its book.
    mend(project.folder)
    assert project.ran(project.dvc("repro")) == [f"{stage}@abdomen"]
    assert outputs(project) == undisturbed


def forget(project: Project, stage: str) -> None:
    """Bring the project to where the stage has never run: no outputs, nothing of it in DVC's books."""
    path = project.folder / "dvc.lock"
    lock = yaml.safe_load(path.read_text())
    for out in lock["stages"].pop(f"{stage}@abdomen", {"outs": []})["outs"]:
        target = project.folder / out["path"]
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    path.write_text(yaml.safe_dump(lock))
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)


def forget_home(project: Project, stage: str) -> None:
    """Remove what the home remembers of the stage's work, by which it would be done at once."""
    if stage in REMEMBERED:
        kept = project.folder / ".hounsfield" / REMEMBERED[stage]
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()


def kill(project: Project, stage: str, delay: float) -> bool:
    """Run a stage by DVC, kill both `delay` seconds after it began; False if it had ended by then."""
    repro = subprocess.Popen(
        ["dvc", "repro", "--single-item", f"{stage}@abdomen"],
        cwd=project.folder,
        env=project.environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while repro.poll() is None and not _runs(repro.pid, stage):
        time.sleep(0.02)
    time.sleep(delay)
    if repro.poll() is not None:
        return False
    os.killpg(repro.pid, signal.SIGKILL)
    repro.wait()
    # DVC needs a moment to leave after its books are written: the cache of runs first, the lock after it.
    written = any(path.is_file() for path in (project.folder / ".dvc/cache/runs").rglob("*"))
    book = (project.folder / "dvc.lock").read_text()
    # Of `register` no cache of runs is kept; a book that is empty was about to be written.
    return not written and f"{stage}@abdomen:" not in book and "stages:" in book


def _runs(process: int, stage: str) -> bool:
    try:
        children = psutil.Process(process).children(recursive=True)
        return any(stage in child.cmdline() for child in children)
    except psutil.NoSuchProcess:
        return False


def test_prediction_has_the_geometry_of_its_scan(project: Project, tmp_path: Path) -> None:
    scans = project.folder / "data/raw/abdomen/imagesTr"
    summary = json.loads(
        project.hounsfield("predict", "abdomen", str(scans), str(tmp_path / "out"), "--json")
    )
    assert len(summary["written"]) == 12
    assert "champion" in summary["model"]
    for scan in scans.iterdir():
        image, labels = nibabel.load(scan), nibabel.load(tmp_path / "out" / scan.name)
        assert image.shape == labels.shape
        np.testing.assert_allclose(image.affine, labels.affine, atol=1e-4)
        assert set(np.unique(labels.dataobj)) <= {0, 1, 2, 3, 4}
