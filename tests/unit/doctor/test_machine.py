import sys
from pathlib import Path

import pytest

from pipeline.doctor import machine
from pipeline.gpus import memory_to_plan_for


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _install_torch(folder: Path, build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise AssertionError('torch was imported')\n")
    (folder / "torch" / "version.py").write_text(f"cuda: Optional[str] = {build}\n")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(folder)


def test_no_gpu_is_a_warning(programs: Path) -> None:
    (check,) = machine.gpu(programs)
    assert (check.status, check.found[:4]) == ("warning", "none")


def test_every_gpu_is_named_with_its_memory(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(programs, "nvidia-smi", "echo 'NVIDIA H200, 143771'; echo 'NVIDIA GB10, [N/A]'")
    _install_torch(tmp_path, "'13.0'", monkeypatch)
    checks = machine.gpu(tmp_path)
    assert [check.found for check in checks] == ["NVIDIA H200, 140 GiB", "NVIDIA GB10"]
    assert {check.status for check in checks} == {"ok"}


def test_a_torch_without_cuda_beside_a_gpu_is_told(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(programs, "nvidia-smi", "echo 'NVIDIA H200, 143771'")
    _install_torch(tmp_path, "None", monkeypatch)
    check = machine.gpu(tmp_path)[-1]
    assert (check.name, check.status) == ("torch", "warning")
    assert check.remedy.startswith("pip install --force-reinstall torch==")


@pytest.mark.parametrize(
    ("memory", "planned"),
    [
        (["143771", "143771"], 8),
        (["143771", "6144"], 5),
        (["[N/A]"], None),
        (["1024"], None),
        (["[N/A]", "8192"], 7),
    ],
)
def test_a_step_is_planned_for_the_smallest_gpu_and_no_more_than_is_usual(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: list[str], planned: int | None
) -> None:
    _install_torch(tmp_path, "'13.0'", monkeypatch)
    _program(programs, "nvidia-smi", "; ".join(f"echo 'A card, {mib}'" for mib in memory))
    assert memory_to_plan_for() == planned


def test_without_a_gpu_nothing_is_planned_for_one(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_torch(tmp_path, "'13.0'", monkeypatch)
    assert memory_to_plan_for() is None


def test_nothing_is_planned_for_a_gpu_that_torch_leaves_idle(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(programs, "nvidia-smi", "echo 'A card, 143771'")
    _install_torch(tmp_path, "None", monkeypatch)
    assert memory_to_plan_for() is None


def test_an_absent_container_engine_is_a_warning_with_the_command(programs: Path) -> None:
    check = machine.container_engine(programs)
    assert (check.status, check.remedy) == ("warning", "apt-get install podman")


def test_an_engine_without_its_daemon_does_not_count(programs: Path) -> None:
    _program(programs, "docker", "echo; exit 1")
    check = machine.container_engine(programs)
    assert (check.status, check.remedy) == ("warning", "systemctl start docker")


def test_the_engine_that_answers_is_named(programs: Path) -> None:
    _program(programs, "docker", "exit 1")
    _program(programs, "podman", "echo 5.4.1")
    check = machine.container_engine(programs)
    assert (check.status, check.found) == ("ok", "podman 5.4.1")


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=1", "no-such-package[x]==2"]\n'
    )
    check = machine.packages(tmp_path)
    assert (check.status, check.found) == ("missing", "not installed: no-such-package")


@pytest.mark.parametrize("text", ["x = [", "[project]", "project = 1"])
def test_a_project_file_that_cannot_be_read_is_no_reason_to_break_off(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    check = machine.packages(tmp_path)
    assert (check.status, check.remedy) == ("warning", "git checkout pyproject.toml")


def test_the_projects_own_packages_are_all_there() -> None:
    assert machine.packages(Path(__file__).parents[3]).status == "ok"


def test_processor_memory_and_disk_are_measured(tmp_path: Path) -> None:
    assert int(machine.processor(tmp_path).found.split()[0]) >= 1
    total, free = (float(part.split()[0]) for part in machine.memory(tmp_path).found.split(", "))
    assert 0 < free <= total
    assert machine.disk(tmp_path).found.endswith("GiB free")
