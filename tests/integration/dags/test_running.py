"""Every DAG run for real on one small phantom, in the order in which a hospital meets them."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.registry.models import CHAMPION, ModelRegistry
from pipeline.registry.version import Description
from pipeline.workspace import STAGES
from tests.integration.dags.conftest import Deployment

LABELS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}


def kill_training(deployment: Deployment) -> None:
    """`kill -9` a training once it has a checkpoint, with everything between it and Airflow."""
    checkpoints = deployment.home / "checkpoints/abdomen"
    while not list(checkpoints.glob("*/step_*.safetensors")):
        time.sleep(0.02)
    trainings = [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if (process.info["cwd"] or "").startswith(str(deployment.home)) and "train" in process.info["cmdline"]
    ]
    assert trainings, "the training was over before it could be killed"
    for process in trainings:
        os.killpg(os.getpgid(process.pid), signal.SIGKILL)


def test_a_retraining_goes_on_after_a_kill_and_its_model_waits_for_approval(deployment: Deployment) -> None:
    before = deployment.git("rev-parse", "HEAD")
    deployment.begin_dag("retrain_abdomen", answer="none")
    kill_training(deployment)
    ended = deployment.end_dag()
    assert ended.state == "success", ended.said
    assert "going on from step" in ended.said, "the second attempt did not begin anew"
    assert ended.tasks == dict.fromkeys(
        ["open", *STAGES, "awaited", "approve", "publish", "close"], "success"
    ) | {"promote": "skipped"}
    assert deployment.champion() is None, "the deadline passed, so it stays a challenger"
    assert deployment.git("tag", "--points-at", "HEAD").startswith("abdomen/manual__")
    assert deployment.git("rev-parse", "HEAD~1") == before
    assert not list((deployment.home / "workspaces/abdomen").glob("[!.]*"))
    pages = [path.name for path in (deployment.home / "reports/abdomen").glob("*/*.html")]
    assert sorted(pages) == ["decision.html", "report.html"]


def test_the_killed_training_has_the_weights_of_an_undisturbed_one(
    deployment: Deployment, tmp_path: Path
) -> None:
    project = deployment.project
    shutil.copy(project.folder / "dvc.lock", tmp_path)
    project.dvc("checkout")
    elsewhere = {"HOUNSFIELD_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        ["dvc", "repro", "--force", "--single-item", "train@abdomen"],
        cwd=project.folder,
        env=project.environment | elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from step" not in done.stderr
    killed, undisturbed = (
        yaml.safe_load(path.read_text())["stages"]["train@abdomen"]["outs"]
        for path in (tmp_path / "dvc.lock", project.folder / "dvc.lock")
    )
    assert killed == undisturbed
    deployment.git("checkout", "--quiet", "--force", "HEAD")


def test_where_nothing_has_changed_everything_is_skipped(deployment: Deployment) -> None:
    before = deployment.git("rev-parse", "HEAD")
    ended = deployment.run_dag("retrain_abdomen")
    assert set(ended.tasks.values()) == {"skipped"}, ended.said
    assert ended.state == "success"
    assert deployment.git("rev-parse", "HEAD") == before


def test_a_person_who_approves_makes_the_challenger_the_champion(deployment: Deployment) -> None:
    ended = deployment.run_dag("retrain_abdomen", answer="Approve", conf={"force": True})
    assert ended.state == "success", ended.said
    assert set(ended.tasks.values()) == {"success"}
    assert deployment.champion() == 1
    decision = json.loads(deployment.git("show", "HEAD:registry/abdomen.json"))
    assert decision["decision"] == "promoted"
    assert decision["approval"]["by"] == "admin"


def test_new_scans_become_a_version_and_an_event_once_they_have_settled(
    deployment: Deployment, tmp_path: Path
) -> None:
    incoming, raw = tmp_path / "incoming", deployment.project.folder / "data/raw/abdomen"
    incoming.mkdir()
    deployment.project.set_params(organs__abdomen__airflow={"incoming": str(incoming)})
    deployment.project.commit("where scans arrive")
    before = deployment.git("show", "HEAD:data/raw/abdomen.dvc")
    deployment.begin_dag("receive_data")
    for kind in ("imagesTr", "labelsTr"):
        source = next((raw / kind).glob("*001*"))
        (incoming / kind).mkdir()
        target = incoming / kind / source.name.replace("001", "099")
        # As an upload does it: the file grows, and is whole only later.
        target.write_bytes(source.read_bytes()[:1000])
        time.sleep(1)
        shutil.copyfile(source, target)
    ended = deployment.end_dag()
    assert ended.state == "success", ended.said
    assert ended.tasks == {"wait_for_scans": "success", "receive_abdomen": "success"}
    assert ended.events == ["scans_abdomen"]
    assert deployment.git("show", "HEAD:data/raw/abdomen.dvc") != before
    assert deployment.git("log", "-1", "--format=%s") == "data: new scans of abdomen"
    deployment.project.dvc("checkout", "data/raw/abdomen.dvc")
    arrived = sorted(raw.glob("*/*099*"))
    assert [path.read_bytes() for path in arrived] == [
        next((raw / kind).glob("*001*")).read_bytes() for kind in ("imagesTr", "labelsTr")
    ]


def test_a_rollback_moves_the_champion_and_is_logged(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = ModelRegistry(deployment.project.folder, deployment.home)
    second = deployment.project.folder / ".second"
    shutil.copytree(deployment.project.folder / "models/abdomen", second)
    (second / "note").write_text("another model")
    version = registry.register("abdomen", second, [], Description())
    decision = {"decision": "promoted", "compared_with": 1, "inputs": "", "champion_version": 2}
    registry.settle(registry.record(version, decision, []), promoted=True)
    shutil.rmtree(second)
    assert registry.champion_version("abdomen") == 2
    ended = deployment.run_dag("rollback_model", conf={"organ": "abdomen", "reason": "kidneys in air"})
    assert ended.state == "success", ended.said
    assert registry.champion_version("abdomen") == 1
    assert [entry["reason"] for entry in registry.rollbacks("abdomen")] == ["kidneys in air"]
    assert CHAMPION == "champion"


@pytest.fixture(scope="module")
def scans(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the project, with images and labels."""
    source = deployment.project.folder / "data/raw/abdomen"
    return Path(shutil.copytree(source, tmp_path_factory.mktemp("hospital") / "scans"))


def traces(deployment: Deployment) -> list[str]:
    """All that a refused run could leave."""
    places = [deployment.home / name for name in ("workspaces", "sources")]
    files = [path for place in places for path in place.glob("*/[!.]*")]
    branches = deployment.git("branch", "--list", "onboard/*").split()
    return [*map(str, files), *branches, deployment.git("status", "--short")]


def test_an_organ_from_a_form_ends_as_a_branch_to_merge(deployment: Deployment, scans: Path) -> None:
    form = {
        "organ": "organs_of_the_abdomen",
        "source": str(scans),
        "labels": LABELS,
        "window": "-160, 240",
        "budget": 6,
        "schedule": "@weekly",
        "watch": True,
    }
    before = deployment.git("rev-parse", "HEAD")
    ended = deployment.run_dag("onboard_organ", conf=form)
    assert ended.state == "success", ended.said
    assert set(ended.tasks.values()) == {"success"}
    name = form["organ"]
    assert deployment.git("rev-parse", "HEAD") == before, "main waits for the merge"
    changed = deployment.git("diff", "--name-only", "main", f"onboard/{name}").split()
    assert {"params.yaml", "dvc.lock", f"data/raw/{name}.dvc", f"registry/{name}.json"} <= set(changed)
    organ = yaml.safe_load(deployment.git("show", f"onboard/{name}:params.yaml"))["organs"][name]
    assert organ["ingest"]["labels"] == LABELS
    assert organ["ingest"]["normalisation"] == {"windows": [[-160.0, 240.0]]}
    assert organ["train"]["steps"] == 6
    assert organ["airflow"] == {"schedule": "@weekly", "incoming": str(scans)}
    assert not list((deployment.home / f"workspaces/{name}").glob("[!.]*"))
    deployment.git("merge", "--quiet", f"onboard/{name}")
    again = deployment.run_dag(f"retrain_{name}")
    assert set(again.tasks.values()) == {"skipped"}, "its DAG is there, and its stages are up to date"


def test_a_second_run_for_an_organ_is_refused_and_the_first_goes_on(
    deployment: Deployment, scans: Path
) -> None:
    form: dict[str, Any] = {"organ": "kidneys", "source": str(scans), "labels": LABELS}
    first = deployment.project.hounsfield("run", "onboard", "--id", "first", "--form", json.dumps(form))
    before = traces(deployment)
    ended = deployment.run_dag("onboard_organ", conf=form)
    assert ended.state == "failed"
    assert ended.tasks["ingest"] == "upstream_failed"
    told = deployment.webhook.told[-1].splitlines()
    assert told[0].startswith("onboard_organ: open failed: kidneys: the run first is open: wait for its end")
    assert told[1].startswith("log: http")
    assert traces(deployment) == before
    assert Path(json.loads(first.splitlines()[-1])["path"]).is_dir()
    deployment.project.hounsfield("run", "close", "kidneys", "--id", "first")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"organ": "../../etc"}, "'../../etc' cannot be an organ's name: use lower-case letters"),
        ({"organ": "abdomen"}, "params.yaml already has the organ 'abdomen'"),
        ({"source": "/nowhere/at/all"}, "the source /nowhere/at/all is no folder that the worker can read"),
        ({"labels": "tumour=9"}, "no case of {source} has the labels tumour=9: there are: 1, 2, 3, 4"),
        ({"labels": "spleen=2"}, "the label maps of {source} hold 1, 3, 4 as well: name all that there are"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence_and_nothing_is_left(
    deployment: Deployment, scans: Path, wrong: dict[str, Any], sentence: str
) -> None:
    form = {"organ": "kidneys", "source": str(scans), "labels": LABELS} | wrong
    before = traces(deployment)
    command = ["run", "onboard", "--id", "one", "--form", json.dumps(form)]
    said = deployment.project.run("python", "-m", "pipeline", *command, code=CODES[next(iter(wrong))])
    assert sentence.format(source=scans) in said
    assert traces(deployment) == before


CODES = {"organ": 3, "source": 2, "labels": 2}
