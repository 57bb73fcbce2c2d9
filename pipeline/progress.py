"""What a person sees while something long runs: on stderr, so that stdout stays for results."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 300.0
"""Seconds after which a line tells of what no terminal shows."""
console = Console(stderr=True, highlight=False, soft_wrap=True)

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield `items` behind a progress bar; without a terminal a line now and then says how far it is."""
    with bar() as progress:
        yield from progress.track(items, total=total, description=what)


def bar(amount: ProgressColumn | None = None) -> Progress:
    """A progress bar with the project's columns, to be used as a context; in a log, lines.

    Args:
        amount: shows what is done; None: as a number of items.
    """
    amount = amount or MofNCompleteColumn()
    columns = TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()
    if console.is_terminal:
        return Progress(*columns, console=console, transient=True)
    return _Lines(amount)


class _Lines(Progress):
    """Of one task; draws nothing, but tells every five minutes what is done and how long the rest takes."""

    def __init__(self, amount: ProgressColumn) -> None:
        super().__init__(console=console, auto_refresh=False, disable=True)
        self._amount = amount
        self._began: tuple[float, float] | None = None
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Like a bar's."""
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Like a bar's."""
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        with self._lock:
            task, now = self._tasks[task_id], time.monotonic()
            # What was there before, as where a training goes on, says nothing of the rate.
            self._began = self._began or (now, task.completed)
            if now - self._told < LINE_EVERY or task.finished:
                return
            self._told = now
        since, before = self._began
        console.print(f"{task.description}: {self._amount.render(task)}{_left(task, now - since, before)}")


def _left(task: Task, seconds: float, before: float) -> str:
    """How long the rest takes at the rate since `before` was done."""
    if task.total is None or task.completed <= before:
        return ""
    minutes = round(seconds * (task.total - task.completed) / (task.completed - before) / 60)
    return f", about {minutes // 60} h {minutes % 60:02} min left"
