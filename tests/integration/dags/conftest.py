"""One phantom project for all DAGs, with a database of Airflow beside it; DAGs run by `dag.test()`."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project

RUNNER = Path(__file__).with_name("run_dag.py")
TRAIN = {"steps": 12, "checkpoint_every": 3, "network": {"channels": [8, 16, 32]}}


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
        self.project = project
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
        }

    @property
    def home(self) -> Path:
        return self.project.folder / ".hounsfield"

    def process(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.project.folder,
            env=self.project.environment | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_dag(self, dag_id: str, answer: str = "", conf: Any = None, **environment: str) -> Ended:
        arguments = [dag_id, json.dumps(conf or {}), *([answer] if answer else [])]
        process = self.process(sys.executable, str(RUNNER), *arguments, **environment)
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said
        return Ended(**json.loads(said.splitlines()[-1]), said=said)

    def git(self, *arguments: str) -> str:
        return self.project.run("git", *arguments).strip()

    def champion(self, organ: str = "abdomen") -> int | None:
        found = json.loads(self.project.hounsfield("results", "--json"))
        return next(result["champion"] for result in found if result["organ"] == organ)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    project = Project(tmp_path_factory.mktemp("project"))
    project.set_params(
        organs__abdomen__train=TRAIN,
        organs__abdomen__validate={"spacing_range": [0.1, 20], "test_share": 0.3},
        organs__abdomen__register={"minimum_dice": 0},
        defaults__airflow__retries=0,
    )
    project.hounsfield("phantom", "--patients", "12", "--size", "0.5")
    project.commit("small")
    project.run("git", "branch", "-M", "main")
    made = Deployment(project, tmp_path_factory.mktemp("airflow"))
    (Path(made.environment["AIRFLOW_HOME"]) / "passwords.json").write_text(json.dumps({"admin": "admin"}))
    process = made.process(sys.executable, "-m", "airflow", "db", "migrate")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    return made
