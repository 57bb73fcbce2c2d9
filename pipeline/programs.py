"""What other programs of this machine say when they are asked, and which packages are installed."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ANSWER_WITHIN = 5.0
"""Seconds a program or server has to answer."""


def ask(*command: str, folder: Path | None = None, within: float | None = None) -> str | None:
    """What a program prints, run in `folder`; None if it is not there, fails or takes too long.

    Args:
        command: the program and its arguments.
        folder: it runs in; None: the current one.
        within: seconds; None: `ANSWER_WITHIN`.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=within or ANSWER_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
