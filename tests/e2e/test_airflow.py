"""Airflow on PostgreSQL, new scans in a bucket, a new organ by a form, and what may fail on the way.

The tests tell one story, in their order: the first champion, new scans, a new organ, a full disk.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.phantom.dataset import make_phantom
from tests.conftest import Project
from tests.e2e.airflow_site import Site, airflow
from tests.e2e.servers import Store, postgresql, s3_store, wait_for

AT_FIRST, LATER = 12, 14
"""Patients of the phantom: four of the first, five of all are kept back to test on; the gate wants three."""
STEPS = 120
A_MINUTE = 60.0
LONG = 900.0
"""Seconds that a run may take on a machine that has other things to do; alone it takes one minute."""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scans of all patients, in the layout of the Medical Segmentation Decathlon."""
    folder = tmp_path_factory.mktemp("phantom") / "abdomen"
    make_phantom(folder, LATER, size=0.5)
    return folder


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """HOUNSFIELD_HOME, on a small file system of its own where there can be one."""
    with tempfile.TemporaryDirectory(prefix="hounsfield-home-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1g,mode=0755", "hounsfield", folder]
        mounted = (
            os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )
        yield Path(folder)
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with s3_store() as store:
        yield store


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, phantom: Path, store: Store) -> Project:
    """A project as it is in a hospital: scans under DVC, a remote, and a place where new scans arrive."""
    project = Project(tmp_path_factory.mktemp("project"))
    project.set_params(
        # What is trained first has learned nothing, so that there is something to win.
        organs__abdomen__train={"steps": STEPS, "learning_rate": 1e-6},
        organs__abdomen__patches={},
        defaults__patches__size=[8, 16, 16],
        defaults__patches__per_case=8,
        defaults__train__network={"channels": [4, 8]},
        defaults__train__checkpoint_every=10,
        defaults__train__validate_every=1000,
        organs__abdomen__airflow={"incoming": store.url("incoming/abdomen")},
        # The small phantom has thick slices and few patients.
        organs__abdomen__ingest__spacing="auto",
        defaults__validate__spacing_range=[0.1, 20],
        defaults__validate__test_share=0.3,
        defaults__register__minimum_dice=0,
        # A training this short forgets one organ for another; on the whole it gets better.
        defaults__register__margin=1,
        defaults__airflow__schedule=None,
        defaults__airflow__settle_seconds=1,
        defaults__airflow__poll_seconds=3,
        defaults__airflow__retry_seconds=3,
        defaults__airflow__retries=6,
    )
    copy_cases(phantom, project.folder / "data/raw/abdomen", range(AT_FIRST))
    project.dvc("add", "-q", "data/raw/abdomen")
    project.dvc("remote", "add", "-q", "--default", "store", store.url("dvc"))
    project.commit("scans")
    project.run("git", "branch", "--move", "main")
    return project


@pytest.fixture(scope="module")
def site(
    project: Project, home: Path, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("airflow")
    with (
        postgresql() as database,
        airflow(project.folder, home, folder, database, **store.environment) as site,
    ):
        wait_for(
            lambda: {"retrain_abdomen", "onboard_organ", "receive_data"} <= site.dags(), LONG, "all DAGs"
        )
        assert site.import_errors() == []
        # Looking for new scans all the time would take a core from what is tested before they come.
        site.pause("receive_data")
        yield site


def copy_cases(phantom: Path, target: Path, numbers: range) -> None:
    for kind in ("imagesTr", "labelsTr"):
        (target / kind).mkdir(parents=True, exist_ok=True)
        for path in sorted((phantom / kind).iterdir())[numbers.start : numbers.stop]:
            shutil.copyfile(path, target / kind / path.name)
    shutil.copyfile(phantom / "dataset.json", target / "dataset.json")


def champion(home: Path, organ: str) -> tuple[int | None, int]:
    """The version of an organ's model that is in use, and how many there are."""
    from pipeline.registry.connection import connect

    client = connect(home)
    versions = client.search_model_versions(f"name = '{organ}'")
    aliases = client.get_registered_model(organ).aliases if versions else {}
    return (int(aliases["champion"]) if "champion" in aliases else None), len(versions)


def stage_process(home: Path, organ: str, stage: str) -> psutil.Process | None:
    """The process that computes a stage of a run."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[-4:] == ["-m", "pipeline", stage, organ] and Path(process.cwd()).is_relative_to(home):
            return process
    return None


def supervisors(site: Site, process: psutil.Process) -> list[psutil.Process]:
    """All of Airflow that looks after a process, without the scheduler: a worker, and its task."""
    above = process.parents()
    scheduler = above.index(site.component("scheduler"))
    return [one for one in above[:scheduler] if "airflow worker" in one.name()]


def left_over(home: Path) -> list[str]:
    """Workspaces that are still there, and runs that are still held to be open."""
    files = [str(path) for path in (home / "workspaces").glob("*/[!.]*")]
    return files + [str(path) for path in (home / "workspaces").glob("*.open.json")]


def test_a_worker_killed_in_the_middle_of_a_training_costs_what_came_after_the_last_checkpoint(
    site: Site, project: Project, home: Path
) -> None:
    run = site.trigger("retrain_abdomen")
    wait_for(lambda: [*home.glob("checkpoints/abdomen/*/*")], LONG, "the first checkpoint", pause=0.05)
    training = wait_for(lambda: stage_process(home, "abdomen", "train"), 5, "a training")
    # It stands still meanwhile: when the next attempt comes, it is an orphan in the middle of its work.
    training.suspend()
    killed = supervisors(site, training)
    assert len(killed) == 2
    for process in killed:
        process.kill()
    wait_for(lambda: site.attempt("retrain_abdomen", run, "train") == (2, "running"), LONG, "another attempt")
    with contextlib.suppress(psutil.NoSuchProcess):
        training.resume()
    assert site.ended("retrain_abdomen", run, LONG) == "success", site.story("retrain_abdomen", run)
    said = site.log("retrain_abdomen", run, "train", 2)
    assert "that an earlier attempt left behind" in said
    assert "going on from step" in said
    assert champion(home, "abdomen") == (1, 1)
    assert project.run("git", "tag", "--points-at", "main").startswith("abdomen/manual__")
    assert left_over(home) == []


FORMS = {
    "no bucket": ({"organ": "spleen", "source": "s3://nowhere/scans"}, "nowhere"),
    "no folder": ({"organ": "spleen", "source": "/nowhere/scans"}, "the source /nowhere/scans is no folder"),
    "no such label": ({"organ": "spleen", "labels": {"spleen": 9}}, "9"),
    "a name that escapes": ({"organ": "../../escaped"}, "'../../escaped' cannot be an organ's name"),
    "a name that is taken": ({"organ": "abdomen"}, "params.yaml already has the organ 'abdomen'"),
}


def test_a_form_that_is_wrong_is_refused_in_a_sentence_and_leaves_nothing_behind(
    site: Site, project: Project, home: Path, phantom: Path
) -> None:
    before = everything(home), project.run("git", "for-each-ref")
    for form, sentence in FORMS.values():
        run = site.trigger("onboard_organ", **{"source": str(phantom)} | form)
        assert site.ended("onboard_organ", run, LONG) == "failed"
        # A person has to mend it: it is not tried again.
        assert site.attempt("onboard_organ", run, "open") == (1, "failed")
        assert sentence in site.log("onboard_organ", run, "open")
    assert (everything(home), project.run("git", "for-each-ref")) == before


def everything(home: Path) -> set[str]:
    """All files of the home but locks, which stay."""
    return {str(path) for path in home.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def test_a_new_organ_by_one_request_though_the_scheduler_is_killed_and_the_store_away_for_a_minute(
    site: Site, project: Project, home: Path, store: Store, phantom: Path
) -> None:
    store.put(phantom, "spleen")
    form = {"organ": "spleen", "source": store.url("spleen"), "budget": 30}
    run = site.trigger("onboard_organ", **form)
    wait_for(lambda: site.state("onboard_organ", run, "ingest") == "running", LONG, "the ingest")
    store.door.shut()
    away = time.monotonic()
    second = site.trigger("onboard_organ", **form)
    assert site.ended("onboard_organ", second, LONG) == "failed"
    assert "is open" in site.log("onboard_organ", second, "open")
    site.component("scheduler").kill()
    wait_for(
        lambda: site.state("onboard_organ", run, "publish") == "up_for_retry", LONG, "a failure to publish"
    )
    time.sleep(max(0.0, A_MINUTE - (time.monotonic() - away)))
    store.door.open()
    assert site.ended("onboard_organ", run, LONG) == "success", site.story("onboard_organ", run)
    assert champion(home, "spleen") == (1, 1)
    assert left_over(home) == []
    # On the branch alone; merged, it has a DAG of its own.
    assert "retrain_spleen" not in site.dags()
    project.run("git", "merge", "--quiet", "onboard/spleen")
    wait_for(lambda: "retrain_spleen" in site.dags(), LONG, "the DAG of the spleen")


def test_new_scans_in_the_bucket_become_the_new_champion(
    site: Site,
    project: Project,
    home: Path,
    store: Store,
    phantom: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.set_params(organs__abdomen__train={"steps": STEPS})
    project.commit("a learning rate to learn with")
    copy_cases(phantom, tmp_path, range(AT_FIRST, LATER))
    before = len(site.runs("retrain_abdomen"))
    site.pause("receive_data", False)
    store.put(tmp_path, "incoming/abdomen")
    wait_for(lambda: len(site.runs("retrain_abdomen")) > before, LONG, "the retraining")
    site.pause("receive_data")
    run = site.runs("retrain_abdomen")[-1]["dag_run_id"]
    assert run.startswith("asset_triggered__")
    assert site.ended("retrain_abdomen", run, LONG) == "success", site.story("retrain_abdomen", run)
    assert champion(home, "abdomen") == (2, 2)
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    project.dvc("pull", "-q", "data/raw/abdomen.dvc")
    assert len([*(project.folder / "data/raw/abdomen/imagesTr").iterdir()]) == LATER
    assert left_over(home) == []


def test_a_full_disk_costs_an_attempt(site: Site, project: Project, home: Path) -> None:
    if not os.path.ismount(home):
        pytest.skip("only root can mount a file system that is small enough to fill")
    project.set_params(organs__abdomen__train={"steps": STEPS + 10})
    project.commit("another training")
    run = site.trigger("retrain_abdomen")
    wait_for(lambda: site.state("retrain_abdomen", run, "train") == "running", LONG, "the training")
    before = champion(home, "abdomen")
    fill(home / "ballast")
    wait_for(
        lambda: site.tasks("retrain_abdomen", run)["train"]["state"] == "up_for_retry", LONG, "a failure"
    )
    (home / "ballast").unlink()
    assert site.ended("retrain_abdomen", run, LONG) == "success", site.story("retrain_abdomen", run)
    after = champion(home, "abdomen")
    assert after[1] == before[1] + 1
    assert after[0] in (before[0], after[1])
    assert left_over(home) == []


def fill(ballast: Path) -> None:
    """Write until there is no room for another byte."""
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
