"""What tests of every kind share: where the real data are, and a project of their own to run in."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
SERVICES = (
    "e2e/test_airflow",
    "integration/containers",
    "integration/dags",
    "unit/infra",
    "integration/components",
)
"""Tests that start Airflow, PostgreSQL, S3 or containers, or need an environment besides `.venv`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-services` runs and `make test` leaves to it."""
    for item in items:
        if item.path.relative_to(ROOT / "tests").as_posix().startswith(SERVICES):
            item.add_marker("services")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Networks as small as in the tests spend their time waiting for threads, not computing.

    Tests that do not use torch do not wait for its import.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("HOUNSFIELD_DATA", ROOT.parent / "shared" / "data")).absolute()
    if not folder.is_dir():
        pytest.skip(f"no real volumes in {folder}: set HOUNSFIELD_DATA to their folder")
    return folder


@pytest.fixture
def empty_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project to run stages in, which is changed into: dvc.yaml, no organs, a home of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text("defaults: {}\norgans: {}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


class Project:
    """A clone of this project in a temporary folder, run as a person would: by its commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = self._output(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines()
        for name in files:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        for command in (
            ["init", "-q"],
            ["config", "user.name", "Test"],
            ["config", "user.email", "test@example.org"],
        ):
            self._output(["git", *command], folder)
        self.commit("start")

    @property
    def environment(self) -> dict[str, str]:
        """This interpreter first on the path, the clone's code before the installed one."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        clean = {
            key: value
            for key, value in os.environ.items()
            # Which kernels OpenBLAS computes by is the processor's choice, as in a container.
            if not key.startswith(("HOUNSFIELD_", "MLFLOW_", "OPENBLAS_"))
        }
        return clean | {"PATH": path, "PYTHONPATH": str(self.folder), "COLUMNS": "200"}

    def run(self, *command: str, code: int = 0) -> str:
        """Run a command, check its exit code, return what it printed."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{' '.join(command)} ended with {done.returncode}:\n{said}"
        return said

    def hounsfield(self, *arguments: str, code: int = 0) -> str:
        return self.run(sys.executable, "-m", "pipeline", *arguments, code=code)

    def dvc(self, *arguments: str, code: int = 0) -> str:
        return self.run("dvc", *arguments, code=code)

    def ran(self, said: str) -> list[str]:
        """The stages that a `dvc repro` ran, in order."""
        return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]

    def set_params(self, **changes: object) -> None:
        """Set parameters by dotted path, as a person would in an editor: comments stay."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        content = yaml.load(path)
        for place, value in changes.items():
            *parents, key = place.split("__")
            section = content
            for parent in parents:
                section = section.setdefault(parent, {})
            section[key] = value
        yaml.dump(content, path)

    def commit(self, message: str) -> None:
        self._output(["git", "add", "-A"], self.folder)
        self._output(["git", "commit", "-qm", message, "--allow-empty"], self.folder)

    @staticmethod
    def _output(command: list[str], folder: Path) -> str:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
