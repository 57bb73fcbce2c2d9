"""What people are told when a task has failed for good."""

import logging
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT

# Airflow reads both when it is imported.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "True")
sys.path.append(str(ROOT / "dags"))

# Airflow sets up logging when it is first imported, which is not to be within a test.
import hounsfield_airflow.deployment  # noqa: F401
from hounsfield_airflow.callbacks import message, report_failure

TASK = SimpleNamespace(dag_id="retrain_liver", task_id="train", run_id="one", log_url="http://airflow/log")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("a traceback\nerror the disk is full\n"), "error the disk is full"),
        (TimeoutError(), "TimeoutError"),
        (None, "it was ended from outside"),
    ],
)
def test_a_failure_is_told_even_if_its_error_says_nothing(
    error: Exception | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path))
    told = message({"task_instance": TASK, "exception": error})
    assert told == f"retrain_liver: train failed: {reason}\nlog: http://airflow/log"


@pytest.mark.parametrize("address", ["chat.example/services/TOKEN", "http://127.0.0.1:1/services/TO KEN"])
def test_an_address_that_is_none_is_told_without_its_token(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path))
    monkeypatch.setenv("HOUNSFIELD_WEBHOOK", address)
    with caplog.at_level(logging.WARNING):
        report_failure({"task_instance": TASK, "exception": ValueError("x")})
    assert "nobody was told" in caplog.messages[-1]
    assert "services" not in caplog.text
