"""Waiting for new scans without a worker: a look, then a timer, then a look.

The timer is Airflow's own, so the triggerer needs nothing of this project; what was seen is kept in
HOUNSFIELD_HOME, by the command that looks.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk.exceptions import AirflowException

from hounsfield_airflow.runners import ProcessOperator

PATIENCE = timedelta(hours=1)
"""How long a place may be out of reach before somebody is told."""


class ArrivalSensor(ProcessOperator):
    """Ends when new scans of an organ have arrived and settled; its result names the organs.

    Args:
        poll: between two looks.
        arguments: of ProcessOperator.
    """

    def __init__(self, *, poll: timedelta, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.poll = poll

    def execute(self, context: Any, event: Any = None, failures: int = 0) -> dict[str, Any] | None:
        """Look; if nothing is there yet, give the worker back and look again later.

        Raises:
            AirflowException: a place has been out of reach for an hour.
        """
        found = super().execute(context) or {}
        if found.get("ready"):
            return {"ready": found["ready"]}
        failures = failures + 1 if found.get("problems") else 0
        if failures * self.poll >= PATIENCE:
            raise AirflowException("; ".join(f"{organ}: {why}" for organ, why in found["problems"].items()))
        self.defer(trigger=TimeDeltaTrigger(self.poll), method_name="execute", kwargs={"failures": failures})
        raise AssertionError("deferring ends here")
