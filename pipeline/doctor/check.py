"""The answer to one question about machine or project, and how answers are shown."""

from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from pipeline.errors import MissingError

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
