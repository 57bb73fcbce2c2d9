"""The answer to one question about machine or project, and how answers are shown."""

import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from pipeline.errors import MissingError

ANSWER_WITHIN = 5.0
"""Seconds a program or server has to answer."""
COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "missing", "warning"]
    """missing: the pipeline cannot do without; warning: it can, with a loss."""
    found: str
    remedy: str = ""
    """The command or the step that mends it; empty if there is nothing to mend."""


def exit_code(checks: list[Check]) -> int:
    """0 if nothing is missing that the pipeline needs."""
    return MissingError.exit_code if any(check.status == "missing" for check in checks) else 0


def as_table(checks: list[Check]) -> Table:
    """The checks, for a terminal."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "status", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in checks:
        status = Text(check.status, style=COLOURS[check.status])
        # Text, because a path may hold what rich takes for markup.
        table.add_row(check.name, status, Text(check.found), Text(check.remedy))
    return table


def as_json(checks: list[Check]) -> list[dict[str, str]]:
    """The checks, for a program: objects with name, status, found and remedy."""
    return [asdict(check) for check in checks]


def ask(*command: str, folder: Path | None = None) -> str:
    """What a program prints, run in `folder`; nothing if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=ANSWER_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
