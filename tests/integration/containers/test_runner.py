"""Stages run by Airflow's container runner, through a Docker API: as by process, and locked down."""

import gc
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from hounsfield_airflow.containers import StageContainer, share_with_group
from hounsfield_airflow.runners import command_task, hounsfield

from components.engine import Engine
from pipeline.graph import load_stages
from tests.conftest import ROOT
from tests.integration.containers.conftest import PREFIX, STAGES, TAG, Site

DATA_STAGES = [name for name, stage in load_stages(ROOT).items() if not stage.meta.get("gpu")]


@pytest.fixture
def home(api: str, images: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HOUNSFIELD_HOME of a deployment whose runner is `container`."""
    for name, value in {
        "DOCKER_HOST": api,
        "HOUNSFIELD_RUNNER": "container",
        "HOUNSFIELD_HOME": str(tmp_path / "home"),
        "HOUNSFIELD_IMAGES": PREFIX,
        "HOUNSFIELD_IMAGE_TAG": TAG,
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home" / "work").mkdir(parents=True)
    return tmp_path / "home"


def failure_in_container(folder: Path, *command: str, stage: str = "patches") -> Exception | None:
    """Run a command as Airflow does; what it failed with."""
    failure = None
    with warnings.catch_warnings():
        # docker's client leaves its sockets to the garbage collector, and so do the frames of an error.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            command_task(stage, command, cwd=str(folder), stage=stage).execute({})
        except AirflowException as error:
            failure = error.with_traceback(None)
            failure.__context__ = None
        gc.collect()
    return failure


def run_in_container(folder: Path, *command: str, stage: str = "patches") -> None:
    failure = failure_in_container(folder, *command, stage=stage)
    assert failure is None, failure


def test_the_same_run_by_process_and_by_container_gives_the_same_files(
    home: Path, site: Site, tmp_path: Path
) -> None:
    by_process = tmp_path / "process"
    workspaces = {"process": site.open(by_process), "container": site.open(home)}
    for stage in STAGES:
        site.step(by_process, workspaces["process"], "stage", stage, "abdomen")
        run_in_container(workspaces["container"], *hounsfield("run", "stage", stage, "abdomen"), stage=stage)
    made = {kind: outputs(folder) for kind, folder in workspaces.items()}
    assert list(made["container"]) == list(STAGES)
    for stage in DATA_STAGES:
        assert made["container"][stage] == made["process"][stage]
    # A training of a few steps on the same processor by the same torch: this is equal too.
    assert made["container"]["train"] == made["process"]["train"]
    # Nothing that a container made is out of reach of the group that the next process is in.
    assert not [path for path in home.rglob("*") if path.is_dir() and not path.stat().st_mode & 0o020]


def outputs(workspace: Path) -> dict[str, Any]:
    """Path and hash of all that each stage made, by the lock file, in the order of the pipeline."""
    lock = yaml.safe_load((workspace / "dvc.lock").read_text())["stages"]
    return {
        stage: {out["path"]: out["md5"] for out in lock[f"{stage}@abdomen"]["outs"]}
        for stage in STAGES
        if f"{stage}@abdomen" in lock
    }


def test_container_is_locked_down(home: Path) -> None:
    script = (
        "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status | tr -d '\\t'; ls /sys/class/net;"
        " touch /opt/x /etc/x /usr/x && echo written; touch /tmp/x && echo tmp"
    )
    run_in_container(home / "work", "sh", "-c", f"( {script} ) >said 2>/dev/null")
    said = (home / "work/said").read_text().split()
    assert said == ["10001", "CapEff:0000000000000000", "NoNewPrivs:1", "lo", "tmp"]
    # Whoever runs the next stage may be somebody else of the group.
    assert (home / "work/said").stat().st_mode & 0o060 == 0o060


@pytest.mark.parametrize(
    ("code", "kind"), [(3, AirflowFailException), (75, AirflowException), (1, AirflowException)]
)
def test_a_failure_is_told_in_the_sentence_of_the_stage(home: Path, code: int, kind: type[Exception]) -> None:
    script = f"echo 'error params.yaml has no organ'; echo bye; exit {code}"
    failure = failure_in_container(home / "work", "sh", "-c", script)
    assert type(failure) is kind
    assert str(failure) == "params.yaml has no organ"


def test_what_an_earlier_attempt_left_running_is_ended(
    home: Path, engine: Engine, images: dict[str, str]
) -> None:
    places = [("work", "patches"), ("work", "calibrate"), ("other", "patches")]
    ours, beside, other = (
        engine.run(
            # A sleep does not mind being asked to stop.
            *(
                "run",
                "--rm",
                "-d",
                "--stop-timeout",
                "1",
                f"--label=hounsfield.workspace={home / place}",
                f"--label=hounsfield.stage={stage}",
                images["patches"],
                "sleep",
                "300",
            ),
            capture=True,
        ).strip()
        for place, stage in places
    )
    run_in_container(home / "work", "true")
    running = engine.run("ps", "--quiet", "--no-trunc", capture=True).split()
    engine.run("rm", "--force", beside, other, capture=True)
    assert {beside, other} <= set(running)
    assert ours not in running


class Containers:
    """A Docker API that knows some containers by their labels, and removes them."""

    def __init__(self, *labels: dict[str, str]) -> None:
        self.left = list(labels)

    def containers(self, all: bool, filters: dict[str, list[str]]) -> list[dict[str, str]]:
        """Those that have every label asked for."""
        wanted = [label.split("=", 1) for label in filters["label"]]
        found = [place for place, labels in enumerate(self.left) if dict(wanted).items() <= labels.items()]
        return [{"Id": str(place)} for place in found] if all else []

    def remove_container(self, name: str, force: bool) -> None:
        assert force
        self.left.pop(int(name))


def test_a_stage_that_runs_beside_it_in_the_workspace_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUNSFIELD_RUNNER", "container")
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path))
    ours = {"hounsfield.workspace": str(tmp_path), "hounsfield.stage": "patches"}
    beside = ours | {"hounsfield.stage": "calibrate"}
    docker = Containers(beside, ours)
    monkeypatch.setattr(StageContainer, "cli", docker)
    monkeypatch.setattr(DockerOperator, "execute", lambda *_: None)
    command_task("patches", ["true"], cwd=str(tmp_path), stage="patches").execute({})
    assert docker.left == [beside]


def test_a_workspace_that_another_run_removes_meanwhile_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "walk", lambda _: [(str(tmp_path / "gone"), [], []), (str(tmp_path), [], [])])
    tmp_path.chmod(0o700)
    share_with_group(tmp_path, tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o770


def test_group_gets_what_the_owner_has_and_the_cache_stays_as_it_is(tmp_path: Path) -> None:
    workspace = tmp_path / "workspaces/liver/r"
    for path in (workspace / "script.sh", tmp_path / "cache/ab/cd"):
        path.parent.mkdir(parents=True, mode=0o755)
        path.touch()
    (workspace / "script.sh").chmod(0o700)
    (tmp_path / "cache/ab/cd").chmod(0o444)
    (workspace / "link").symlink_to(tmp_path / "cache/ab/cd")
    share_with_group(tmp_path, workspace)
    assert (workspace / "script.sh").stat().st_mode & 0o777 == 0o770
    assert workspace.stat().st_mode & 0o2070 == 0o2070
    assert (tmp_path / "cache/ab").stat().st_mode & 0o2070 == 0o2070
    assert (tmp_path / "cache/ab/cd").stat().st_mode & 0o777 == 0o444
