import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.doctor import Check, examine, exit_code, project

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a clone of this project holds, as far as the doctor looks."""
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    for folder in (".git", ".dvc", "data/raw"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".dvc/config").touch()
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def _scans(root: Path, organ: str, *, tracked: bool = True, there: bool = True) -> None:
    if there:
        (root / f"data/raw/{organ}/imagesTr").mkdir(parents=True)
        (root / f"data/raw/{organ}/imagesTr/a.nii.gz").touch()
    if tracked:
        (root / f"data/raw/{organ}.dvc").touch()


def _write_organs(root: Path, *organs: str) -> None:
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text + "".join(f"  {organ}: {{}}\n" for organ in organs))


def _organ(checks: list[Check], organ: str) -> Check:
    return next(check for check in checks if check.name == f"scans of {organ}")


def test_a_ready_project_lacks_nothing(root: Path) -> None:
    _scans(root, "abdomen")
    checks = examine(root)
    assert [check for check in checks if check.status == "missing"] == []
    assert exit_code(checks) == 0


def test_an_empty_folder_lacks_what_the_pipeline_needs(tmp_path: Path) -> None:
    checks = examine(tmp_path)
    assert {"git", "DVC", "params.yaml"} <= {check.name for check in checks if check.status == "missing"}
    assert exit_code(checks) == 4
    assert [check for check in checks if check.status != "ok" and not check.remedy] == []


def test_looking_loads_neither_torch_nor_mlflow(root: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.doctor import examine; "
        "examine(Path(sys.argv[1])); print({'torch', 'mlflow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["dvc.yaml", "dvc.lock"])
def test_marks_of_a_merge_are_found(root: Path, name: str) -> None:
    (root / name).write_text("stages:\n<<<<<<< HEAD\n  a: {}\n=======\n  b: {}\n>>>>>>> theirs\n")
    check = project.dvc(root)
    assert check.status == "missing"
    assert name in check.found
    assert f"git checkout HEAD {name}" in check.remedy


def test_scans_that_are_not_there_come_with_the_command_that_brings_them(root: Path) -> None:
    _write_organs(root, "spleen", "liver")
    _scans(root, "spleen", there=False)
    checks = project.raw_data(root)
    assert {check.status for check in checks} == {"missing"}
    assert _organ(checks, "abdomen").remedy == "hounsfield phantom"
    assert _organ(checks, "spleen").remedy == "dvc pull data/raw/spleen"
    assert _organ(checks, "liver").remedy.endswith("dvc add data/raw/liver")


def test_scans_that_dvc_does_not_know_are_a_warning(root: Path) -> None:
    _scans(root, "abdomen", tracked=False)
    check = _organ(project.raw_data(root), "abdomen")
    assert (check.status, check.remedy) == ("warning", "dvc add data/raw/abdomen")


def test_an_empty_folder_of_scans_is_no_data(root: Path) -> None:
    _scans(root, "abdomen")
    (root / "data/raw/abdomen/imagesTr/a.nii.gz").unlink()
    assert _organ(project.raw_data(root), "abdomen").status == "missing"


def test_wrong_parameters_are_missing_with_what_to_write(root: Path) -> None:
    _write_organs(root, "spleen")
    check = project.params(root)
    assert check.status == "missing"
    assert "organs.spleen has no section 'ingest'" in f"{check.found} {check.remedy}"


REMOTE = "['remote \"storage\"']\n    url = https://name:secret@host/path?token=secret\n"


@pytest.mark.parametrize(
    ("config", "status", "found"),
    [
        ("", "warning", "none; the data are on this machine alone"),
        (REMOTE, "warning", "storage, but none is the default"),
        (f"[core]\n    remote = storage\n{REMOTE}", "ok", "storage: https://host/path"),
        ("['remote \"disk\"']\n    url = /mnt/my disk\n", "warning", "disk, but none is the default"),
    ],
)
def test_the_remote_is_shown_without_its_password(root: Path, config: str, status: str, found: str) -> None:
    (root / ".dvc/config").write_text(config)
    check = project.remote(root)
    assert (check.status, check.found) == (status, found)


def test_a_dvc_that_fails_is_not_told_as_no_remote(root: Path) -> None:
    (root / ".dvc/config").write_text("no configuration\n")
    check = project.remote(root)
    assert (check.status, check.remedy) == ("warning", "dvc remote list, which says why")


def test_the_local_registry_is_there_once_a_model_was_registered(root: Path) -> None:
    assert (project.registry(root).status, project.registry(root).remedy) == ("warning", "dvc repro")
    (root / "home").mkdir()
    (root / "home/mlflow.db").touch()
    assert project.registry(root).status == "ok"


def test_a_registry_whose_address_is_none_is_told_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://name:secret@[::1")
    check = project.registry(root)
    assert (check.status, "secret" in check.found) == ("missing", False)
    assert "MLFLOW_TRACKING_URI is no address" in check.found


def test_a_registry_server_is_knocked_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://name:secret@{address}")
        assert project.registry(root).found == f"http://{address} answers"
    check = project.registry(root)
    assert check.status == "missing"
    assert "secret" not in check.found
    assert "unset MLFLOW_TRACKING_URI" in check.remedy
