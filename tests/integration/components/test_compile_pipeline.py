"""The Kubeflow pipeline, compiled by kfp in its own environment from `dvc.yaml` and the components."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.graph import load_stages
from tests.conftest import ROOT, Project
from tests.integration.components.test_components import add_stage

PYTHON = ROOT / ".venv-kubeflow/bin/python"


def compiled(project: Path, *options: str) -> dict[str, Any]:
    """The pipeline of the abdomen, as the project's own code compiles it."""
    if not PYTHON.exists():
        pytest.skip("kfp has no environment: make kubeflow")
    output = project / "compiled.yaml"
    done = subprocess.run(
        [PYTHON, "-m", "components.compile_pipeline", "abdomen", f"--output={output}", *options],
        cwd=project,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = next(yaml.safe_load_all(output.read_text()))
    return found


def edges(pipeline: dict[str, Any]) -> dict[str, set[str]]:
    """What each task waits for, importers left out."""
    tasks = pipeline["root"]["dag"]["tasks"]
    return {
        name: {need for need in task.get("dependentTasks", []) if not need.startswith("importer")}
        for name, task in tasks.items()
        if not name.startswith("importer")
    }


def test_tasks_edges_and_defaults_are_those_of_the_project(tmp_path: Path) -> None:
    project = Project(tmp_path)
    pipeline = compiled(project.folder, "--prefix=registry.example/team/", "--tag=v3", "--env=A=B")
    assert edges(pipeline) == {name: set(stage.needs) for name, stage in load_stages(ROOT).items()}
    inputs = pipeline["root"]["inputDefinitions"]["parameters"]
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert inputs["organs_ingest"]["defaultValue"] == params["organs"]["abdomen"]["ingest"]
    assert inputs["defaults_train"]["defaultValue"] == params["defaults"]["train"]
    # Only where the raw scans are has to be said for a run.
    assert [name for name, given in inputs.items() if "defaultValue" not in given] == ["raw_uri"]
    run = pipeline["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert run["image"] == "registry.example/team/train:v3"
    assert run["env"] == [{"name": "A", "value": "B"}]


def test_a_variable_that_is_given_no_value_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="--env: 'MLFLOW_TRACKING_URI' is no NAME=VALUE"):
        compiled(Project(tmp_path).folder, "--env=MLFLOW_TRACKING_URI")


def test_what_a_stage_asks_for_on_kubernetes_is_in_the_pipeline(tmp_path: Path) -> None:
    project = Project(tmp_path)
    limits = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    project.set_params(defaults__airflow__kubernetes={"resources": {"train": {"limits": limits}}})
    executors = compiled(project.folder)["deploymentSpec"]["executors"]
    asked = executors["exec-train"]["container"]["resources"]
    assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == ("4", "16Gi")
    assert (asked["accelerator"]["resourceType"], asked["accelerator"]["resourceCount"]) == (
        "nvidia.com/gpu",
        "1",
    )
    assert "resources" not in executors["exec-patches"]["container"]


def test_a_new_stage_is_in_the_pipeline_with_no_other_edit(tmp_path: Path) -> None:
    project = Project(tmp_path)
    add_stage(project.folder)
    pipeline = compiled(project.folder)
    assert edges(pipeline)["smooth"] == {"train"}
    assert (
        pipeline["deploymentSpec"]["executors"]["exec-smooth"]["container"]["image"]
        == "hounsfield/smooth:latest"
    )
