import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from rich.console import Console

from pipeline.errors import DataError, HounsfieldError, ParamsError
from pipeline.onboarding import NewOrgan, add_organ
from pipeline.params import load_organ
from pipeline.volumes.identity import fingerprint

PROJECT = Path(__file__).parents[3]
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project under git and DVC, with this project's params.yaml and dvc.yaml."""
    root = tmp_path_factory.mktemp("project")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root / name)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "project"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two cases of a CT in the msd layout, one image being a link to a file elsewhere."""
    folder = tmp_path / "source"
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
        for case in "ab":
            array = np.full((4, 4, 4), -1000 if kind == "imagesTr" else 1, np.int16)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / kind / f"{case}.nii.gz")
    (folder / "imagesTr" / "a.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    (folder / "imagesTr" / "a.nii.gz").symlink_to(tmp_path / "elsewhere.nii.gz")
    (folder / "imagesTr" / "._a.nii.gz").write_bytes(b"an archiver's leftover")
    return folder


def _add(root: Path, source: Path, name: str = "spleen") -> NewOrgan:
    return add_organ(root, name, source, modality="CT", labels={"Spleen": 1}, console=QUIET)


def _files(folder: Path) -> dict[str, bytes]:
    """Every file of a project that add-organ could leave something in, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".git", "tmp", "cache"} & set(path.relative_to(folder).parts)
    }


def test_an_organ_is_copied_versioned_and_written_down(root: Path, source: Path) -> None:
    before = (root / "params.yaml").read_text()
    organ = _add(root, source)
    raw = root / "data/raw/spleen"
    copied = {str(path.relative_to(raw)) for path in raw.rglob("*") if path.is_file()}
    assert copied == {f"{kind}/{case}.nii.gz" for kind in ("imagesTr", "labelsTr") for case in "ab"}
    assert (raw / "imagesTr/a.nii.gz").read_bytes() == (source / "imagesTr/a.nii.gz").read_bytes()
    assert not (raw / "imagesTr/a.nii.gz").is_symlink()
    tracked = yaml.safe_load((root / "data/raw/spleen.dvc").read_text())
    assert tracked["outs"][0]["nfiles"] == 4
    ingest = load_organ(root / "params.yaml", "spleen").ingest
    assert (ingest.labels, ingest.salt) == ({"spleen": 1}, None)
    assert (root / "params.yaml").read_text().startswith(before)
    assert not list((root / "data/raw").glob("*partial*"))
    assert organ.lines()[-1] == "next: dvc repro register@spleen"
    with pytest.raises(ParamsError, match="already has the organ 'spleen'"):
        _add(root, source)


def test_patients_that_are_hashed_bind_the_organ_to_the_secret(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    cases = [{"id": case, "patient": "Doe^Jane"} for case in "ab"]
    (source / "dataset.json").write_text(json.dumps({"cases": cases}))
    _add(root, source)
    assert load_organ(root / "params.yaml", "spleen").ingest.salt == fingerprint()
    assert "Doe" not in (root / "params.yaml").read_text()


def test_dvc_refusing_leaves_the_project_as_it_was(root: Path, source: Path) -> None:
    (root / "data/raw").mkdir(parents=True)
    (root / "data/raw/.add-organ.lock").touch()
    (root / ".dvcignore").write_text("spleen\n")
    before = _files(root)
    with pytest.raises(
        HounsfieldError, match=r"dvc add data/raw/spleen failed and nothing was added: .*ignored"
    ):
        _add(root, source)
    assert _files(root) == before
    assert [path.name for path in (root / "data/raw").iterdir()] == [".add-organ.lock"]


KILLED_RUN = """
import os, subprocess, sys, types
from pathlib import Path
from rich.console import Console
from pipeline.onboarding import add, add_organ, versioning

def die(*_, **__):
    os.kill(os.getpid(), 9)

def start_slow_dvc_and_die(command, cwd, pass_fds, **_):
    subprocess.Popen(["sh", "-c", "sleep 1; touch data/raw/spleen.dvc ended"], cwd=cwd, pass_fds=pass_fds)
    die()

if sys.argv[1] == "copying":
    add.shutil.copyfile = die
elif sys.argv[1] == "versioning":
    add._check_space = lambda *_: None
    # Of this module alone: others ask programs, too.
    versioning.subprocess = types.SimpleNamespace(run=start_slow_dvc_and_die)
elif sys.argv[1] == "writing":
    add.change_params = die
root, source = map(Path, sys.argv[2:])
add_organ(root, "spleen", source, modality="CT", labels={"spleen": 1}, console=Console(quiet=True))
"""


def _add_and_kill(moment: str, root: Path, source: Path) -> None:
    command = [sys.executable, "-c", KILLED_RUN, moment, str(root), str(source)]
    assert subprocess.run(command, cwd=PROJECT, check=False).returncode == -9
    assert "spleen" not in yaml.safe_load((root / "params.yaml").read_text())["organs"]
    assert list((root / "data/raw").glob("*partial*"))


@pytest.mark.parametrize("moment", ["copying", "versioning"])
def test_what_a_killed_run_left_is_cleared_away_by_any_other(root: Path, source: Path, moment: str) -> None:
    _add_and_kill(moment, root, source)
    with pytest.raises(DataError, match="is not there"):
        _add(root, source / "nowhere", "liver")
    assert [path.name for path in (root / "data/raw").iterdir()] == [".add-organ.lock"]
    # The DVC of the killed run lives on, and has to have ended before its traces can be cleared.
    assert (root / "ended").exists() == (moment == "versioning")


def test_a_note_of_dvc_that_a_kill_left_half_written_hinders_nobody(root: Path, source: Path) -> None:
    (root / ".dvc/tmp").mkdir(exist_ok=True)
    (root / ".dvc/tmp/rwlock").write_text('{"wri')
    _add(root, source)
    assert (root / "data/raw/spleen.dvc").is_file()


def test_a_run_killed_before_the_last_write_is_run_again_to_the_same_end(root: Path, source: Path) -> None:
    _add_and_kill("writing", root, source)
    assert (root / "data/raw/spleen.dvc").exists()
    (source / "imagesTr" / "b.nii.gz").unlink()
    _add(root, source)
    assert not (root / "data/raw/spleen/imagesTr/b.nii.gz").exists()
    assert yaml.safe_load((root / "data/raw/spleen.dvc").read_text())["outs"][0]["nfiles"] == 3
    assert not list((root / "data/raw").glob("*partial*"))


def test_scans_of_somebody_else_are_never_taken_for_a_leftover(root: Path, source: Path) -> None:
    (root / "data/raw/.add-organ.partial.spleen/scans").mkdir(parents=True)
    (root / "data/raw/spleen").mkdir()
    (root / "data/raw/spleen/scan.nii.gz").write_bytes(b"precious")
    with pytest.raises(DataError, match="data/raw/spleen is there"):
        _add(root, source)
    assert (root / "data/raw/spleen/scan.nii.gz").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["../outside", "Spleen", "a/b", "", ".hidden"])
def test_names_that_are_no_folder_of_their_own_are_refused(root: Path, source: Path, name: str) -> None:
    with pytest.raises(ParamsError, match="cannot be an organ's name"):
        _add(root, source, name)


def test_a_source_that_holds_nothing_to_take_is_refused(root: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, message in {
        tmp_path / "nowhere": "is not there",
        tmp_path / "empty": "is empty",
        tmp_path / "elsewhere.nii.gz": "is a file",
        root / "data/raw": "lie in one another",
        root: "lie in one another",
    }.items():
        (root / "data/raw/other").mkdir(parents=True, exist_ok=True)
        with pytest.raises(DataError, match=message):
            _add(root, place)


def test_a_source_that_cannot_be_read_is_refused_in_a_sentence(root: Path, source: Path, closed: Any) -> None:
    closed(source)
    with pytest.raises(DataError, match=r"source cannot be read \(Permission denied\)"):
        _add(root, source)


def test_labels_no_label_map_can_hold_are_refused_before_anything_is_copied(root: Path, source: Path) -> None:
    with pytest.raises(ParamsError, match=r"labels\.spleen"):
        add_organ(root, "spleen", source, modality="CT", labels={"spleen": 300}, console=QUIET)
    assert not (root / "data/raw/spleen").exists()


def test_too_little_room_is_told_before_anything_is_copied(root: Path, source: Path) -> None:
    # A file without blocks, which alone would fit; DVC's copy of it would not.
    with (source / "imagesTr" / "b.nii.gz").open("r+b") as file:
        file.truncate(shutil.disk_usage(root).free // 4 * 3)
    with pytest.raises(DataError, match=r"DVC's copy take .* are free: make room"):
        _add(root, source)
    assert not (root / "data/raw/spleen").exists()
