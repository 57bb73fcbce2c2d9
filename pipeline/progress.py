"""What a person sees while something long runs: on stderr, so that stdout stays for results."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False, soft_wrap=True)

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Yield `items` behind a progress bar; without a terminal nothing is drawn."""
    with bar() as progress:
        yield from progress.track(items, total=total, description=what)


def bar(amount: ProgressColumn | None = None) -> Progress:
    """A progress bar with the project's columns, to be used as a context.

    Args:
        amount: shows what is done; None: as a number of items.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        amount or MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
