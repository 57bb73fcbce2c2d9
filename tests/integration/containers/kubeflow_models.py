"""Kubeflow Trainer's own models of its objects, asked in the environment that holds them."""

import json
import subprocess
from typing import Any

import pytest

from tests.conftest import ROOT

PYTHON = ROOT / ".venv-kubeflow/bin/python"
ASK = """
import json, sys
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob as TrainJob

def unknown(given, model, path=""):
    for key, value in given.items() if isinstance(given, dict) else []:
        if isinstance(model, dict) and key not in model:
            print(f"{path}.{key} is not known")
        elif isinstance(model, dict):
            unknown(value, model[key], f"{path}.{key}")
    for index, value in enumerate(given) if isinstance(given, list) else []:
        unknown(value, model[index], f"{path}[{index}]")

given = json.load(sys.stdin)
try:
    unknown(given, json.loads(TrainJob.from_dict(given).to_json()))
except Exception as error:
    print(error)
"""


def refused_by_kubeflow(job: dict[str, Any]) -> str:
    """What Kubeflow's models find wrong with a TrainJob; '': nothing."""
    if not PYTHON.exists():
        pytest.skip("Kubeflow's models have no environment: make kubeflow")
    done = subprocess.run(
        [PYTHON, "-c", ASK], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    return done.stdout
