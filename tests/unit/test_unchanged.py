import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from pipeline import cli
from pipeline.errors import DataError, Unfinished
from pipeline.unchanged import unchanged
from pipeline.workspace import STAGES

RAW, CODE, PARAMS = Path("data/raw/liver"), Path("pipeline/stages/train.py"), Path("params.yaml")


def write_params(steps: int = 1, other: int = 1) -> None:
    empty = {stage: {} for stage in STAGES} | {"ingest": {"modality": "CT", "labels": {"one": 1}}}
    organs = {"liver": empty | {"train": {"steps": steps}}, "spleen": empty | {"train": {"steps": other}}}
    PARAMS.write_text(yaml.safe_dump({"defaults": {}, "organs": organs}))


@pytest.fixture
def project(empty_project: Path) -> Path:
    """An organ with two scans, of which one is in a folder, and the code of `train`."""
    write_params()
    for path in (RAW / "one", RAW / "series/two", CODE, Path("data/accepted/liver.parquet")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it was")
    return empty_project


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("ingest", lambda: (RAW / "series/three").write_text("new"), "data/raw/liver"),
        ("ingest", lambda: (RAW / "series/two").write_text("longer than it was"), "data/raw/liver"),
        ("ingest", lambda: (RAW / "one").unlink(), "data/raw/liver"),
        ("train", lambda: Path("data/accepted/liver.parquet").unlink(), "data/accepted/liver.parquet"),
        ("train", lambda: CODE.write_text("other code"), "pipeline/stages/train.py"),
        ("train", lambda: write_params(steps=2), "params.yaml"),
    ],
)
def test_what_changed_while_a_stage_ran_has_it_run_again(
    project: Path, stage: str, change: Callable[[], object], said: str
) -> None:
    sentence = f"liver: {said} changed while {stage} ran: run it again; .*dvc commit {stage}@liver"
    with pytest.raises(Unfinished, match=sentence), unchanged(project, stage, "liver"):
        change()
    with unchanged(project, stage, "liver"):
        pass


def test_what_dvc_does_not_look_at_may_change(project: Path) -> None:
    with unchanged(project, "train", "liver"):
        write_params(other=2)
        Path("pipeline/training/__pycache__").mkdir(parents=True)
        Path("pipeline/training/__pycache__/loop.pyc").write_text("compiled")
        Path("data/volumes/liver").mkdir(parents=True)
        Path("data/volumes/liver/.7.partial.case").write_text("begun")


def test_the_error_of_a_stage_stays_its_own(project: Path) -> None:
    def fail() -> None:
        write_params(steps=2)
        raise DataError("the scan is torn")

    with pytest.raises(DataError, match="torn"), unchanged(project, "train", "liver"):
        fail()


@pytest.mark.usefixtures("project")
def test_a_stage_by_its_command_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def run(_organ: str, params: SimpleNamespace, **_files: Path) -> None:
        given.append(params.modality)
        (RAW / "three").write_text("new")

    monkeypatch.setitem(sys.modules, "pipeline.stages.ingest", SimpleNamespace(run=run))
    with pytest.raises(Unfinished, match="data/raw/liver changed while ingest ran"):
        cli.run_stage("ingest", "liver")
    assert given == ["CT"]
