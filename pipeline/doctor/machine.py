"""What the machine offers: Python, processor, memory, GPU, disk, containers."""

import os
import platform
import re
import shutil
import sys
import tomllib
from pathlib import Path

from pipeline.doctor.check import Check
from pipeline.gpus import cards, torch_has_cuda
from pipeline.programs import ask, installed

GIB = 2**30
LITTLE_MEMORY = 4 * GIB
LITTLE_DISK = 10 * GIB
TRIED_PYTHONS = ((3, 11), (3, 12))
ENGINES = {"docker": "version --format {{.Server.Version}}", "podman": "info --format {{.Version.Version}}"}
"""What makes each say its version; docker's server, because its client alone runs nothing."""


def python(_root: Path) -> Check:
    """The interpreter this runs in."""
    found = platform.python_version()
    if sys.version_info[:2] not in TRIED_PYTHONS:
        tried = " and ".join(f"{major}.{minor}" for major, minor in TRIED_PYTHONS)
        return Check("Python", "warning", f"{found}; tried are {tried}", "make clean env PYTHON=python3.11")
    return Check("Python", "ok", found)


def packages(root: Path) -> Check:
    """Whether what pyproject.toml names is installed."""
    project = root / "pyproject.toml"
    if not project.is_file():
        return Check("packages", "warning", "no pyproject.toml to compare with", "use a clone of the project")
    try:
        needed = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        said = f"pyproject.toml does not say which ({type(error).__name__}: {error})"
        return Check("packages", "warning", said, "git checkout pyproject.toml")
    names = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in needed]
    absent = [name for name in names if not installed(name)]
    if absent:
        return Check("packages", "missing", f"not installed: {', '.join(absent)}", "make env")
    return Check("packages", "ok", f"all {len(names)} installed, torch {installed('torch')}")


def processor(_root: Path) -> Check:
    """How many cores there are to compute on."""
    # Of a shared machine, only what this process may use counts.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check("processor", "ok", f"{cores} cores")


def bfloat16(_root: Path) -> Check:
    """Whether the processor multiplies in bfloat16, as Linux names its features."""
    try:
        features = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return Check("bfloat16", "ok", "not known for this system; training on the CPU uses float32")
    native = sorted(features & {"avx512_bf16", "amx_bf16", "bf16"})
    if native:
        return Check("bfloat16", "ok", f"{' and '.join(native)} of the processor")
    return Check("bfloat16", "ok", "not in the processor; training on the CPU uses float32")


def memory(_root: Path) -> Check:
    """How much memory there is, and how much of it is free."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB of it free"
    if memory.available < LITTLE_MEMORY:
        return Check("memory", "warning", found, "close other programs, or set train.batch_size lower")
    return Check("memory", "ok", found)


def gpu(_root: Path) -> list[Check]:
    """The NVIDIA cards, and whether the installed torch can compute on them."""
    found = cards()
    if not found:
        none = "none that nvidia-smi knows; training uses the small profile"
        return [Check("GPU", "warning", none, "nothing, or use a machine with an NVIDIA GPU")]
    checks = []
    for card in found:
        size = f", {card.mib / 1024:.0f} GiB" if card.mib is not None else ""
        checks.append(Check("GPU", "ok", f"{card.name}{size}"))
    if not torch_has_cuda():
        version = (installed("torch") or "").partition("+")[0]
        install = f"pip install --force-reinstall torch=={version}"
        checks.append(Check("torch", "warning", "built without CUDA, so the GPU lies idle", install))
    return checks


def disk(root: Path) -> Check:
    """Room where the project is."""
    free = shutil.disk_usage(root).free
    found = f"{free / GIB:.0f} GiB free"
    if free < LITTLE_DISK:
        return Check("disk", "warning", found, "dvc gc --workspace, which drops versions not in use")
    return Check("disk", "ok", found)


def container_engine(_root: Path) -> Check:
    """Whether docker or podman answers; only running stages in containers needs one."""
    name = "container engine"
    engines = [engine for engine in ENGINES if shutil.which(engine)]
    for engine in engines:
        if version := ask(engine, *ENGINES[engine].split()):
            return Check(name, "ok", f"{engine} {version}")
    if engines:
        mend = "systemctl start docker" if engines[0] == "docker" else "podman info, which says why"
        return Check(name, "warning", f"{' and '.join(engines)} installed, but not answering", mend)
    return Check(name, "warning", "neither docker nor podman", "apt-get install podman")
