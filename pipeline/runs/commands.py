"""Commands of git and DVC, with their own sentence when one fails."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import MissingError, Unfinished

IDENTITY = {"NAME": "Hounsfield", "EMAIL": "hounsfield@localhost"}
"""Whose commits a run's are, where nobody is configured."""

SILENT = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "600"}
"""A server that says nothing for so many seconds is given up; git would wait for it for ever."""
FOLLOWS = "(atomic push fail"
"""How git says that a branch or tag was not pushed because another one was refused."""
NOT_KEPT = "ERROR: failed to transfer"
"""What DVC says of a file that its cache has no room for, and ends as if it had taken it in."""
NOWHERE = "WARNING: Some of the cache files do not exist"
"""What DVC says of a file that neither cache nor remote has, and ends as if it had pushed it."""
LOCKED = "(atomic transaction failed"
"""How git says that one could not be written; the line that tells why comes from the other side."""


class Refused(Unfinished):
    """git or DVC ended with an error; the reason is the sentence it gave."""


def git(folder: Path, *arguments: str, env: Mapping[str, str] | None = None, text: str | None = None) -> str:
    """What a git command prints, without the last line end.

    Raises:
        Refused: it failed.
        MissingError: git is not there.
    """
    # No prompt: nobody is there to answer it.
    environment = {**SILENT, **os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(env or {})}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        if error.filename == "git":
            raise MissingError("git is not installed", "apt-get install git") from None
        raise MissingError(f"{folder} is not there", "open the run again") from None
    if done.returncode != 0:
        marks = ("remote: error:", "!") if LOCKED in done.stderr else ("fatal:", "error:", "!")
        raise Refused(f"git {arguments[0]} failed", _sentence(done.stderr, marks))
    return done.stdout.removesuffix("\n")


def unlock_git(folder: Path) -> None:
    """Remove what a git that was killed has locked in the clone `folder`, in which nobody runs it now."""
    for lock in (folder / ".git").rglob("*.lock"):
        lock.unlink(missing_ok=True)


def dvc(folder: Path, *arguments: str) -> str:
    """What a DVC command prints.

    Raises:
        Refused: it failed.
    """
    done = subprocess.run(
        dvc_command(*arguments),
        cwd=folder,
        env=dvc_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or NOT_KEPT in done.stderr:
        raise Refused(f"dvc {arguments[0]} failed", _sentence(done.stderr, ("ERROR:",)))
    if NOWHERE in done.stderr:
        raise Refused(f"dvc {arguments[0]} failed", "files are missing, in the cache and in the remote")
    return done.stdout


def dvc_command(*arguments: str) -> list[str]:
    """The command line of DVC in this environment."""
    return [sys.executable, "-m", "dvc", *arguments]


def dvc_environment() -> dict[str, str]:
    """An environment in which the stages' `python` is this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path}


def as_author(folder: Path) -> dict[str, str]:
    """The environment in which git can commit in `folder`, whoever runs it."""
    try:
        git(folder, "var", "GIT_COMMITTER_IDENT")
    except Refused:
        return {f"GIT_{role}_{key}": IDENTITY[key] for role in ("AUTHOR", "COMMITTER") for key in IDENTITY}
    return {}


def _sentence(said: str, marks: Sequence[str]) -> str:
    """The line that gives the reason; without passwords, which an address may carry."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and FOLLOWS not in line]
    found = next((line for line in lines if line.startswith(tuple(marks))), lines[-1] if lines else "")
    for mark in marks:
        found = found.removeprefix(mark).strip()
    return _without_passwords(found.rstrip(".")) or "it gave no reason"


def _without_passwords(text: str) -> str:
    import re

    return re.sub(r"(://)[^/@\s]+@", r"\1", text)
