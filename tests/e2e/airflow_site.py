"""A real Airflow as `make airflow` runs it, driven by its REST API as a person or a program would."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.e2e.servers import free_port, wait_for

ENDED = {"success", "failed"}
QUICK = {
    # What is done every few seconds or minutes in a hospital is done every second here.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "15",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "15",
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "2",
    "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "2",
}


class Site:
    """Airflow that runs, and a session that is logged in to it."""

    def __init__(self, launcher: subprocess.Popen[str], port: int, password: str, home: Path) -> None:
        self.launcher, self.home = launcher, home
        self.url = f"http://127.0.0.1:{port}"
        self.password = password
        self._session = requests.Session()
        self._session.trust_env = False
        answer = self._session.post(
            f"{self.url}/auth/token", json={"username": "admin", "password": password}, timeout=30
        )
        assert answer.status_code == 201, answer.text
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._session.request(method, f"{self.url}/api/v2/{path}", timeout=30, **options)

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        answer = self.ask("GET", path, params=query)
        assert answer.ok, f"{path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    def dags(self) -> set[str]:
        return {dag["dag_id"] for dag in self.get("dags")["dags"]}

    def import_errors(self) -> list[str]:
        return [error["stack_trace"] for error in self.get("importErrors")["import_errors"]]

    def pause(self, dag: str, paused: bool = True) -> None:
        answer = self.ask("PATCH", f"dags/{dag}", json={"is_paused": paused})
        assert answer.ok, answer.text

    def trigger(self, dag: str, **params: Any) -> str:
        """Start a run as the form of the page does; its id."""
        answer = self.ask("POST", f"dags/{dag}/dagRuns", json={"logical_date": None, "conf": params})
        assert answer.ok, f"{dag}: {answer.status_code} {answer.text}"
        return str(answer.json()["dag_run_id"])

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """All runs, the oldest first."""
        found: list[dict[str, Any]] = self.get(f"dags/{dag}/dagRuns", order_by="run_after")["dag_runs"]
        return found

    def run(self, dag: str, run: str) -> dict[str, Any]:
        return self.get(f"dags/{dag}/dagRuns/{run}")

    def tasks(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """The task instances of a run, by task."""
        found = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances", limit=100)["task_instances"]
        return {task["task_id"]: task for task in found}

    def state(self, dag: str, run: str, task: str) -> str:
        return str(self.tasks(dag, run).get(task, {}).get("state"))

    def attempt(self, dag: str, run: str, task: str) -> tuple[int, str]:
        """Which attempt of a task it is, and its state."""
        found = self.tasks(dag, run).get(task, {"try_number": 0, "state": None})
        return found["try_number"], str(found["state"])

    def states(self, dag: str, run: str) -> set[str]:
        return {str(task["state"]) for task in self.tasks(dag, run).values()}

    def log(self, dag: str, run: str, task: str, attempt: int = 1) -> str:
        """What a task has said, as the page shows it."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/{attempt}"
        content = self.get(path, full_content="true")["content"]
        return "\n".join(
            str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in content
        )

    def ended(self, dag: str, run: str, seconds: float) -> str:
        """Wait for the end of a run; its state."""

        def state() -> str | None:
            found = str(self.run(dag, run)["state"])
            return found if found in ENDED else None

        return str(wait_for(state, seconds, f"the end of {dag} {run}", pause=0.5))

    def story(self, dag: str, run: str) -> str:
        """States and attempts of all tasks, and the end of the log of those that failed: for messages."""
        lines = []
        for name, task in self.tasks(dag, run).items():
            lines.append(f"{name}: {task['state']} (attempt {task['try_number']})")
            if task["state"] in ("failed", "up_for_retry"):
                with contextlib.suppress(AssertionError):
                    lines.append(self.log(dag, run, name, max(1, task["try_number"]))[-2500:])
        return "\n".join(lines)

    def component(self, name: str) -> psutil.Process:
        """The process of the scheduler, say."""
        for child in psutil.Process(self.launcher.pid).children():
            if child.cmdline()[-1:] == [name] or name in child.cmdline():
                return child
        raise AssertionError(f"no process of the {name}")


@contextlib.contextmanager
def airflow(project: Path, home: Path, folder: Path, database: str, **environment: str) -> Iterator[Site]:
    """Run Airflow with the DAGs of `project` on `database` until the end of the block.

    Its own files go to `folder`, those of runs to `home`.
    """
    port = free_port()
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AIRFLOW", "HOUNSFIELD_", "MLFLOW_", "AWS_"))
    }
    settings = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        # Networks as small as here spend their time waiting for threads, not computing.
        "OMP_NUM_THREADS": "1",
        "AIRFLOW_HOME": str(folder),
        "HOUNSFIELD_HOME": str(home),
    }
    with open(folder / "launcher.log", "w") as log:
        launcher = subprocess.Popen(
            [sys.executable, str(project / "infra/local/run_airflow.py"), "--port", str(port)],
            env=clean | QUICK | settings | environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        assert launcher.stdout is not None
        line = launcher.stdout.readline()
        assert "password" in line, f"{line}\n{Path(log.name).read_text()}"
        password = line.partition("password ")[2].partition(")")[0]
        yield Site(launcher, port, password, home)
    finally:
        family = psutil.Process(launcher.pid).children(recursive=True)
        launcher.send_signal(signal.SIGINT)
        code = launcher.wait(timeout=120)
        assert launcher.stdout is not None
        launcher.stdout.close()
    left = [process for process in family if process.is_running() and process.status() != "zombie"]
    assert (code, left) == (0, [])
