import io

import pytest
from rich.console import Console
from rich.progress import DownloadColumn

from pipeline import progress


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a log is given, where no terminal is."""
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, highlight=False, soft_wrap=True))
    return text


class Clock:
    """In the place of the module `time`: goes on by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_is_told_every_five_minutes_how_far_a_long_work_is(log: io.StringIO, clock: Clock) -> None:
    for _ in progress.track(range(70), "predict", 70):
        clock.now += 100
    lines = log.getvalue().splitlines()
    assert lines[0] == "predict:  3/70, about 1 h 52 min left"
    assert len(lines) == 23
    assert lines[-1] == "predict: 69/70, about 0 h 02 min left"


def test_a_log_is_told_nothing_of_what_is_soon_done(log: io.StringIO) -> None:
    assert list(progress.track(iter("abc"), "predict", 3)) == ["a", "b", "c"]
    assert log.getvalue() == ""


def test_what_was_done_before_says_nothing_of_the_rate(log: io.StringIO, clock: Clock) -> None:
    with progress.bar() as bar:
        task = bar.add_task("train", total=1000, completed=900)
        for done in range(901, 920):
            bar.update(task, total=1000, completed=done)
            clock.now += 60
    assert log.getvalue().splitlines()[0] == "train:  906/1000, about 1 h 34 min left"


def test_bytes_are_told_as_such(log: io.StringIO, clock: Clock) -> None:
    with progress.bar(DownloadColumn()) as bar:
        task = bar.add_task("Fetching", total=10_000_000)
        for _ in range(4):
            clock.now += 200
            bar.advance(task, 1_000_000)
    assert log.getvalue().splitlines()[0] == "Fetching: 2.0/10.0 MB, about 0 h 27 min left"
