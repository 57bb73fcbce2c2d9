"""What Airflow's scheduler does every few seconds: read the DAG files, from the project's own description."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.workspace import STAGES

ROOT = Path(__file__).parents[3]
PARSE = """
import json, os, sys, time
from airflow.dag_processing.dagbag import BundleDagBag
before, began = set(sys.modules), time.perf_counter()
folder = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
dags = {
    dag.dag_id: {
        "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
        "pools": {task.task_id: task.pool for task in dag.tasks},
        "schedule": dag.timetable.summary if hasattr(dag.timetable, "summary") else str(dag.timetable),
        "max_active_runs": dag.max_active_runs,
        "starts": dag.start_date is not None,
        "commands": {task.task_id: getattr(task, "command", None) for task in dag.tasks},
        "retries": {task.task_id: task.retries for task in dag.tasks},
    }
    for dag in bag.dags.values()
}
seconds = time.perf_counter() - began
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps({"errors": bag.import_errors, "dags": dags, "seconds": seconds, "loaded": loaded}))
"""


def parse(airflow_home: Path, **environment: str) -> Any:
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("HOUNSFIELD_", "AIRFLOW"))
    }
    own = {
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        env=clean | own | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return parse(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A project's description alone, to be changed."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def change(path: Path, **places: Any) -> None:
    content = yaml.safe_load(path.read_text())
    for place, value in places.items():
        *parents, last = place.split("__")
        section = content
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def test_every_dag_is_there_and_none_has_an_error(parsed: Any) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {"retrain_abdomen", "receive_data", "onboard_organ", "rollback_model"}


def test_reading_the_dags_is_quick_and_loads_nothing_heavy(parsed: Any) -> None:
    heavy = {"torch", "mlflow", "dvc", "pandas", "numpy", "monai", "boto3", "docker", "kubernetes"}
    assert not heavy & set(parsed["loaded"])
    # A second is what is wanted; on a busy machine of CI several may pass.
    assert parsed["seconds"] < 10


def test_new_scans_are_waited_for_again_after_some_have_come(parsed: Any) -> None:
    # A DAG that runs continuously and has no date to start from is run once only: the next run has its date.
    assert parsed["dags"]["receive_data"]["starts"]


def test_a_dag_is_short() -> None:
    for path in (ROOT / "dags").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 50, path


def test_a_retraining_is_the_pipeline_between_opening_and_closing(parsed: Any) -> None:
    tasks = parsed["dags"]["retrain_abdomen"]["tasks"]
    assert set(tasks) == {"open", *STAGES, "publish", "close"}
    assert tasks["train"] == ["augment", "ingest", "patches", "validate"]
    assert tasks["ingest"] == ["open"]
    assert tasks["publish"] == ["register"]
    assert parsed["dags"]["retrain_abdomen"]["max_active_runs"] == 1


def test_onboarding_is_the_same_pipeline(parsed: Any) -> None:
    assert set(parsed["dags"]["onboard_organ"]["tasks"]) == {"open", *STAGES, "publish", "close"}


def test_a_new_stage_appears_with_no_other_edit(described: Path, tmp_path: Path) -> None:
    stage = {
        "desc": "Calibrated probabilities",
        "cmd": "python -m pipeline calibrate ${key}",
        "deps": ["models/${key}", "data/accepted/${key}.parquet"],
        "outs": ["data/calibration/${key}.json"],
        "meta": {"gpu": True},
    }
    change(described / "dvc.yaml", stages__calibrate={"foreach": "${organs}", "do": stage})
    change(described / "params.yaml", defaults__airflow__gpu_pool="gpu")
    found = parse(tmp_path / "airflow", HOUNSFIELD_PROJECT=str(described))
    assert found["errors"] == {}
    for dag in (found["dags"]["retrain_abdomen"], found["dags"]["onboard_organ"]):
        assert dag["tasks"]["calibrate"] == ["train", "validate"]
        assert dag["tasks"]["publish"] == ["calibrate", "register"]
        assert dag["pools"]["calibrate"] == dag["pools"]["train"] == "gpu"
        assert dag["pools"]["ingest"] == "default_pool"
        assert "calibrate" in dag["commands"]["calibrate"]


@pytest.mark.parametrize("waits", [{"approval": "required"}, {"on_drift": "approve"}])
def test_a_new_organ_appears_with_what_its_parameters_say(
    described: Path, tmp_path: Path, waits: dict[str, str]
) -> None:
    organ = {stage: {} for stage in STAGES} | {"ingest": {"modality": "MR", "labels": {"one": 1}}}
    own = {
        "airflow": {"schedule": None, "retries": 7, "incoming": "s3://hospital/liver"},
        "register": waits,
    }
    change(described / "params.yaml", organs__liver=organ | own)
    dags = parse(tmp_path / "airflow", HOUNSFIELD_PROJECT=str(described))["dags"]
    liver = dags["retrain_liver"]
    assert liver["tasks"]["awaited"] == ["register"]
    assert liver["tasks"]["approve"] == ["awaited"]
    assert liver["tasks"]["publish"] == ["promote", "register"]
    assert liver["retries"]["train"] == 7
    assert "0 3 * * 1" not in liver["schedule"]
    assert "0 3 * * 1" in dags["retrain_abdomen"]["schedule"]
    assert set(dags["receive_data"]["tasks"]) == {"wait_for_scans", "receive_liver"}


def test_params_that_cannot_be_used_are_an_import_error_with_their_sentence(
    described: Path, tmp_path: Path
) -> None:
    change(described / "params.yaml", organs__abdomen__airflow={"schedule": "now and then"})
    found = parse(tmp_path / "airflow", HOUNSFIELD_PROJECT=str(described))
    assert any("write five fields of cron" in error for error in found["errors"].values())
