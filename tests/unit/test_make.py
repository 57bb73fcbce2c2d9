"""What `make` says on a machine that lacks something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_a_machine_without_python_is_told_which_one_is_needed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.txt").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to("/bin/sh")
    done = subprocess.run(
        [shutil.which("make") or "make", "env"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "python3.11: " in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_pipelines_of_organs_that_cannot_be_read_are_a_failure(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "params.yaml").write_text("organs: [")
    given = ["--assume-old=.venv-kubeflow/.complete", f"BIN={Path(sys.executable).parent}"]
    (tmp_path / ".venv-kubeflow").mkdir()
    (tmp_path / ".venv-kubeflow/.complete").touch()
    done = subprocess.run(["make", "kubeflow", *given], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2


def test_a_base_image_is_not_begun_where_no_engine_could_take_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [shutil.which("bash") or "bash", str(ROOT / "components/make_base.sh")],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "no container engine is here: apt-get install podman buildah runc, or set ENGINE\n"
    assert os.listdir(tmp_path) == []
