"""What the DAGs are rendered from: the project's `params.yaml` and `dvc.yaml`, and the environment."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Asset

from hounsfield_airflow import CHECKOUT
from hounsfield_airflow.callbacks import report_failure
from pipeline.params import AirflowParams, OrganParams, RegisterParams, load_defaults, load_organs
from pipeline.runs.settings import Settings, read_settings

LONGEST_DELAY = timedelta(hours=1)


def settings() -> Settings:
    """What `HOUNSFIELD_*` says."""
    return read_settings(CHECKOUT)


def project() -> Path:
    """A checkout of the project: its own folder, or, where it is an address or bare, that of the DAGs."""
    local = settings().local
    return local if local is not None and (local / "dvc.yaml").is_file() else CHECKOUT


def organs() -> dict[str, OrganParams]:
    """The parameters of every organ.

    Raises:
        ParamsError: `params.yaml` cannot be used; Airflow shows the sentence as an import error.
    """
    return load_organs(project() / "params.yaml")


def defaults() -> tuple[AirflowParams, RegisterParams]:
    """The parameters of an organ that is not there yet."""
    return load_defaults(project() / "params.yaml")


def scans_of(organ: str) -> Asset:
    """The raw scans of an organ: `receive_data` says when there are new ones, `retrain_*` listens."""
    # A name alone: for an address Airflow loads what all providers know of addresses, boto3 among it.
    return Asset(name=f"scans_{organ}", group="hounsfield")


def trying(params: AirflowParams) -> dict[str, Any]:
    """Arguments of tasks: how often they are tried, and what is told when they fail."""
    return {
        "retries": params.retries,
        "retry_delay": timedelta(seconds=params.retry_seconds),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": LONGEST_DELAY,
        "on_failure_callback": report_failure,
    }
