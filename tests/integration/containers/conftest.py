"""The images of all stages, built once, where a container engine and a base image are to be had."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.build import build_all
from components.engine import Engine, find_engine
from pipeline.atomic import locked
from pipeline.errors import MissingError
from pipeline.graph import load_stages
from tests.conftest import ROOT, Project

# Airflow reads both when it is imported, by the tests of what runs containers and pods.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "True")
sys.path.append(str(ROOT / "dags"))

PREFIX, TAG = "hounsfield/", "test"
BASES = ("hounsfield/base:bookworm", "python:3.11-slim-bookworm")
"""The one that components/make_base.sh makes, and the one that the Dockerfiles name."""
STAGES = tuple(load_stages(ROOT))


@pytest.fixture(scope="session")
def engine() -> Engine:
    try:
        engine = find_engine()
    except MissingError as error:
        pytest.skip(str(error))
    if engine.is_podman and os.geteuid() != 0:
        pytest.skip("rootless podman maps the groups of files away: run as root, or with docker")
    return engine


@pytest.fixture(scope="session")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The image of each stage, from this tree. Other workers wait for the one that builds."""
    base = os.environ.get("HOUNSFIELD_BASE") or next(filter(engine.has, BASES), None)
    if base is None:
        pytest.skip("no base image: components/make_base.sh makes one without a registry")
    with locked(tmp_path_factory.getbasetemp().parent / "images.lock", "building the images"):
        build_all([], base, PREFIX, TAG)
    return {stage: f"{PREFIX}{stage}:{TAG}" for stage in STAGES}


@pytest.fixture(scope="session")
def api(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Docker API: docker's own, or podman's, started here."""
    if not engine.is_podman:
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    socket = tmp_path_factory.mktemp("api") / "s"
    server = subprocess.Popen(
        [engine.program, "system", "service", "--time", "0", f"unix://{socket}"],
        env=os.environ | engine.environment,
    )
    while not socket.exists():
        assert server.poll() is None
        time.sleep(0.1)
    yield f"unix://{socket}"
    server.terminate()
    server.wait()


class Site(Project):
    """A project with a small phantom, whose runs are opened as Airflow opens them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.set_params(
            organs__abdomen__train={"steps": 4, "network": {"channels": [4, 8]}, "validate_every": 4},
            organs__abdomen__ingest__spacing="auto",
            organs__abdomen__validate={"spacing_range": [0.1, 20], "test_share": 0.3},
            organs__abdomen__register={"minimum_dice": 0},
        )
        self.hounsfield("phantom", "--patients", "8", "--size", "0.35")
        self.commit("small")

    def settings(self, home: Path) -> dict[str, str]:
        branch = self.run("git", "branch", "--show-current").strip()
        return {
            "HOUNSFIELD_PROJECT": str(self.folder),
            "HOUNSFIELD_HOME": str(home),
            "HOUNSFIELD_BRANCH": branch,
        }

    def step(self, home: Path, folder: Path, *arguments: str) -> str:
        """`hounsfield run` in a folder, with the settings of a deployment; what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", "run", *arguments],
            cwd=folder,
            env=self.environment | self.settings(home),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def open(self, home: Path) -> Path:
        """The workspace of a new run."""
        opened: dict[str, Any] = json.loads(self.step(home, self.folder, "open", "abdomen", "--id", "t"))
        return Path(opened["path"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))
