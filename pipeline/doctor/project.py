"""What the project has: repository, DVC and its remote, parameters, scans, model registry."""

import shutil
import socket
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.doctor.check import Check
from pipeline.errors import HounsfieldError
from pipeline.lockfile import broken, cut_short
from pipeline.onboarding.embedded import ORGAN as EMBEDDED
from pipeline.params import load_organ, read_params
from pipeline.programs import ANSWER_WITHIN, ask, installed
from pipeline.registry.connection import check_address, is_local, tracking_uri
from pipeline.workspace import STAGES, home, stage_files

DVC_WITHIN = 30.0
"""Seconds that DVC has to answer: on a busy machine, or a disk over the network, it needs some to begin."""
DEFAULT = "(default)"
"""How DVC marks the remote that it takes where none is named."""


def git(root: Path) -> Check:
    """The repository that keeps code, parameters and DVC's pointers."""
    if not shutil.which("git"):
        return Check("git", "missing", "not on the PATH", "apt-get install git")
    if not (root / ".git").exists():
        return Check("git", "missing", "the project is no repository", "git init")
    return Check("git", "ok", "repository")


def dvc(root: Path) -> Check:
    """What keeps data and models, and runs the stages."""
    if not installed("dvc"):
        return Check("DVC", "missing", "not installed", "make env")
    if not (root / ".dvc").is_dir():
        return Check("DVC", "missing", "the project is not under DVC", "dvc init")
    if cut_short(root):
        found = "dvc.lock was cut short by a kill; the results are in DVC's run cache"
        return Check("DVC", "missing", found, "git checkout dvc.lock && dvc repro")
    if broken(root):
        found = "dvc.lock is no lock of DVC, as where marks of a merge stand in it"
        return Check("DVC", "missing", found, "git checkout HEAD dvc.lock && dvc repro")
    try:
        for stage in STAGES:
            stage_files(root, stage, "organ")
    except HounsfieldError as error:
        return Check("DVC", "missing", error.reason, error.remedy or "git checkout HEAD dvc.yaml")
    return Check("DVC", "ok", f"{installed('dvc')}, initialised")


def remote(root: Path) -> Check:
    """Where other machines get the data from."""
    name = "DVC remote"
    listed = ask(sys.executable, "-m", "dvc", "remote", "list", folder=root, within=DVC_WITHIN)
    if listed is None:
        return Check(
            name, "warning", "not known: DVC fails or does not answer", "dvc remote list, which says why"
        )
    # A path may hold spaces.
    remotes = [(*line.split(maxsplit=1), "")[:2] for line in listed.splitlines() if line.strip()]
    if not remotes:
        add = "dvc remote add -d storage s3://bucket/path"
        return Check(name, "warning", "none; the data are on this machine alone", add)
    for storage, uri in remotes:
        if uri.endswith(DEFAULT):
            return Check(name, "ok", f"{storage}: {_without_password(uri.removesuffix(DEFAULT).rstrip())}")
    found = f"{', '.join(storage for storage, _ in remotes)}, but none is the default"
    return Check(name, "warning", found, f"dvc remote default {remotes[0][0]}")


def params(root: Path) -> Check:
    """Whether every organ's parameters hold."""
    try:
        organs = list(read_params(root / "params.yaml")["organs"])
        for organ in organs:
            load_organ(root / "params.yaml", organ)
    except HounsfieldError as error:
        return Check("params.yaml", "missing", error.reason, error.remedy or "correct what is named")
    return Check("params.yaml", "ok", f"valid; organs: {', '.join(organs) or 'none yet'}")


def raw_data(root: Path) -> list[Check]:
    """The scans of every organ."""
    try:
        organs = read_params(root / "params.yaml")["organs"]
    except HounsfieldError:
        return []
    return [_raw_data_of(root, str(organ)) for organ in organs]


def _raw_data_of(root: Path, organ: str) -> Check:
    raw = f"data/raw/{organ}"
    name, folder = f"scans of {organ}", root / raw
    tracked = (root / f"{raw}.dvc").is_file()
    if folder.is_dir() and any(path.is_file() for path in folder.rglob("*")):
        if tracked:
            return Check(name, "ok", raw)
        return Check(name, "warning", f"{raw}, but DVC does not know them", f"dvc add {raw}")
    if organ == EMBEDDED:
        return Check(name, "missing", f"{raw} is not there", "hounsfield phantom")
    if tracked:
        return Check(name, "missing", f"{raw} is not there, DVC knows it", f"dvc pull {raw}")
    return Check(name, "missing", f"{raw} is not there", f"copy the scans to {raw}, then dvc add {raw}")


def registry(root: Path) -> Check:
    """Where models are registered; a server is only knocked at."""
    name = "model registry"
    uri = tracking_uri(home(root))
    try:
        check_address(uri)
    except HounsfieldError as error:
        return Check(name, "missing", error.reason, error.remedy)
    if is_local(uri):
        database = unquote(uri.partition(":///")[2])
        if Path(database).is_file():
            return Check(name, "ok", f"local: {database}")
        return Check(name, "warning", f"no model was registered yet ({database})", "dvc repro")
    server = urlsplit(uri)
    if server.scheme not in ("http", "https") or not server.hostname:
        return Check(name, "ok", f"{server.scheme or 'folder'}, not looked into")
    try:
        port = server.port or {"http": 80, "https": 443}[server.scheme]
        socket.create_connection((server.hostname, port), ANSWER_WITHIN).close()
    except (OSError, ValueError) as error:
        found = f"{_without_password(uri)} does not answer ({error})"
        return Check(name, "missing", found, "start the server, or unset MLFLOW_TRACKING_URI")
    return Check(name, "ok", f"{_without_password(uri)} answers")


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
