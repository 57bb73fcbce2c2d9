"""One phantom project for all DAGs, with a database of Airflow beside it; DAGs run by `dag.test()`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.conftest import Project

RUNNER = Path(__file__).with_name("run_dag.py")
TRAIN = {
    "steps": 15,
    "checkpoint_every": 3,
    "validate_every": 15,
    "network": {"name": "residual_unet", "channels": [8, 16, 32]},
}


class Webhook(ThreadingHTTPServer):
    """What a team's chat is to Airflow; keeps what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Listener)
        self.told: list[str] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Listener(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Webhook)
        self.server.told.append(json.loads(body)["text"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Ended:
    """How a run of a DAG ended."""

    state: str
    run: str
    tasks: dict[str, str]
    events: list[str]
    said: str


class Deployment:
    """The project, and an Airflow that runs its DAGs."""

    def __init__(self, project: Project, airflow_home: Path) -> None:
        self.project, self.webhook = project, Webhook()
        self.environment = {
            "AIRFLOW_HOME": str(airflow_home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(project.folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(airflow_home / "passwords.json"),
            "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home}/airflow.db",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(airflow_home / "logs"),
            "HOUNSFIELD_HOME": str(self.home),
            "HOUNSFIELD_WEBHOOK": self.webhook.url,
        }

        self.log = airflow_home / "said.log"

    @property
    def home(self) -> Path:
        return self.project.folder / ".hounsfield"

    def start(self) -> None:
        """Make the database and the process that runs DAGs."""
        environment = self.project.environment | self.environment
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        done = subprocess.run(migrate, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        read, write = os.pipe()
        with open(self.log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(RUNNER), str(write)],
                cwd=self.project.folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(write,),
                text=True,
            )
        os.close(write)
        self._answers = open(read, encoding="utf-8")  # noqa: SIM115 (closed by `stop`)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        # After a test that gave up it may wait for somebody who never comes.
        self._process.terminate()
        self._process.wait(60)
        self.webhook.shutdown()
        self.webhook.server_close()
        self._answers.close()

    def run_dag(self, dag_id: str, answer: str = "", conf: Any = None) -> Ended:
        """Run a DAG to its end; `answer` is what a person says where it asks."""
        self.begin_dag(dag_id, answer, conf)
        return self.end_dag()

    def begin_dag(self, dag_id: str, answer: str = "", conf: Any = None) -> None:
        assert self._process.stdin is not None
        self._before = self.log.stat().st_size
        print(
            json.dumps({"dag": dag_id, "conf": conf or {}, "answer": answer}),
            file=self._process.stdin,
            flush=True,
        )

    def end_dag(self) -> Ended:
        answer = self._answers.readline()
        log = self.log.read_bytes()[self._before :].decode("utf-8", "replace")
        # What the commands said, without what Airflow says of itself.
        kept = ("runners.py", "callbacks.py", " failed: ")
        said = "\n".join(line for line in log.splitlines() if any(word in line for word in kept))
        assert answer, log
        return Ended(**json.loads(answer), said=said)

    def git(self, *arguments: str) -> str:
        return self.project.run("git", *arguments).strip()

    def champion(self, organ: str = "abdomen") -> int | None:
        found = json.loads(self.project.hounsfield("results", "--json"))
        return next(result["champion"] for result in found if result["organ"] == organ)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    project = Project(tmp_path_factory.mktemp("project"))
    project.set_params(
        # The small phantom has thick slices and few patients.
        organs__abdomen__ingest__spacing="auto",
        defaults__validate={"spacing_range": [0.1, 20], "test_share": 0.3},
        defaults__register={"minimum_dice": 0},
        defaults__train=TRAIN,
        defaults__airflow={"retries": 1, "retry_seconds": 0, "settle_seconds": 2, "poll_seconds": 1},
        organs__abdomen__validate={},
        organs__abdomen__train={},
        organs__abdomen__register={"approval": "required"},
    )
    project.hounsfield("phantom", "--patients", "12", "--size", "0.5")
    project.commit("small")
    project.run("git", "branch", "-M", "main")
    made = Deployment(project, tmp_path_factory.mktemp("airflow"))
    (made.log.parent / "passwords.json").write_text(json.dumps({"admin": "admin"}))
    made.start()
    yield made
    made.stop()
