"""A project of three quick stages and two organs, under real git and DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.runs.opening import close_run, open_run
from pipeline.runs.publishing import publish_run
from pipeline.runs.settings import Settings, read_settings
from pipeline.runs.workspaces import Run
from pipeline.workspace import STAGES

KEY = "${key}"
PIPELINE = {
    "copy": {
        "cmd": f"python tool.py copy {KEY}",
        "deps": [f"data/raw/{KEY}", "tool.py"],
        "params": [f"organs.{KEY}.ingest"],
        "outs": [f"data/copy/{KEY}.txt"],
    },
    "collect": {
        "cmd": f"python tool.py collect {KEY}",
        "deps": [f"data/copy/{KEY}.txt", "tool.py"],
        "outs": [{f"data/kept/{KEY}": {"persist": True}}],
    },
    "judge": {
        "cmd": f"python tool.py judge {KEY}",
        "deps": [f"data/kept/{KEY}"],
        "params": [f"organs.{KEY}.train"],
        "outs": [f"reports/{KEY}/report.html"],
        "metrics": [{f"metrics/{KEY}.json": {"cache": False}}],
    },
}
TOOL = '''
"""Stages that do what files in `trouble/` say: exit with a code, or wait."""
import json, sys, time
from pathlib import Path
stage, organ = sys.argv[1:]
for path in map(Path, ("data/copy", f"data/kept/{organ}", f"reports/{organ}", "metrics")):
    path.mkdir(parents=True, exist_ok=True)
trouble = Path("trouble", stage)
if trouble.is_file():
    what, value = trouble.read_text().split()
    if what == "exit":
        print("error the scan is torn", file=sys.stderr)
        sys.exit(int(value))
    Path("began").write_text("yes")
    time.sleep(float(value))
copy = Path(f"data/copy/{organ}.txt")
if stage == "copy":
    copy.write_text("".join(path.read_text() for path in sorted(Path(f"data/raw/{organ}").glob("*.txt"))))
if stage == "collect":
    kept = Path(f"data/kept/{organ}")
    (kept / f"{len(list(kept.iterdir()))}.txt").write_text(copy.read_text())
if stage == "judge":
    kept = len(list(Path(f"data/kept/{organ}").iterdir()))
    Path(f"metrics/{organ}.json").write_text(json.dumps({"kept": kept}))
    Path(f"reports/{organ}/report.html").write_text(f"<p>{kept} kept</p>")
'''
IGNORED = "/data/copy/\n/data/kept/\n/reports/*/*\n/.hounsfield/\n/trouble/\n/began\n"


def call(folder: Path, *command: str, env: dict[str, str] | None = None) -> str:
    """What a command prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


class Toy:
    """The project, and the settings of a deployment of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def settings(self, **environment: str) -> Settings:
        return read_settings(self.root, environment)

    def git(self, *arguments: str) -> str:
        return call(self.root, "git", *arguments)

    def add_scan(self, organ: str, name: str, text: str) -> None:
        (self.root / "data/raw" / organ / f"{name}.txt").write_text(text)
        call(self.root, "dvc", "add", "-q", f"data/raw/{organ}")
        self.commit("scan")

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", message)

    def params(self) -> Any:
        return yaml.safe_load((self.root / "params.yaml").read_text())


def opened(toy: Toy, organ: str = "liver", run_id: str = "one", **options: object) -> Run:
    run = open_run(toy.settings(), organ, run_id, **options)  # type: ignore[arg-type]
    assert run is not None
    return run


def run_stages(run: Run) -> None:
    """All in one go, because DVC takes a second to start; one by one: test_stage.py."""
    call(run.folder, "dvc", "repro", *(f"{stage}@{run.organ}" for stage in PIPELINE))


def finish(toy: Toy, run: Run) -> None:
    """Run every stage, publish, close."""
    run_stages(run)
    publish_run(toy.settings(), run.organ, run.name)
    close_run(toy.settings(), run.organ, run.name)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy") / "project"
    root.mkdir()
    stages = {name: {"foreach": "${organs}", "do": body} for name, body in PIPELINE.items()}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    organs = {
        name: {stage: {} for stage in STAGES} | {"ingest": {"modality": "CT", "labels": {"one": 1}}}
        for name in ("liver", "spleen")
    }
    (root / "params.yaml").write_text(yaml.safe_dump({"defaults": {}, "organs": organs}, sort_keys=False))
    (root / "tool.py").write_text(TOOL)
    (root / ".gitignore").write_text(IGNORED)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    call(root, "git", "init", "-q", "-b", "main")
    call(root, "git", "config", "user.name", "Test")
    call(root, "git", "config", "user.email", "test@example.org")
    for name in ("liver", "spleen"):
        (root / "data/raw" / name).mkdir(parents=True)
        (root / "data/raw" / name / "first.txt").write_text(f"{name} 1\n")
    call(root, "dvc", "add", "-q", "data/raw/liver", "data/raw/spleen")
    call(root, "git", "add", "-A")
    call(root, "git", "commit", "-qm", "start")
    return root


@pytest.fixture(scope="session")
def ran(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a run of the liver that was published."""
    toy = Toy(Path(shutil.copytree(template, tmp_path_factory.mktemp("ran") / "project", symlinks=True)))
    finish(toy, opened(toy))
    return toy.root


@pytest.fixture
def ran_toy(ran: Path, tmp_path: Path, clean: None) -> Toy:
    return Toy(Path(shutil.copytree(ran, tmp_path / "project", symlinks=True)))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("HOUNSFIELD_", "MLFLOW_")):
            monkeypatch.delenv(name)


@pytest.fixture
def toy(template: Path, tmp_path: Path, clean: None) -> Toy:
    return Toy(Path(shutil.copytree(template, tmp_path / "project", symlinks=True)))
