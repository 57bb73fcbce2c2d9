import importlib
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.errors import DataError, MissingError, ResourceError
from pipeline.volumes.workers import Budget, Outcome, run_each

Item = tuple[str, Any]
Work = Callable[[Item], Any]

WORK = """
import os
import signal
import time
from pathlib import Path

from pipeline.errors import MissingError


def work(item):
    kind, value = item
    if kind == "double":
        return 2 * value
    if kind == "pid":
        return os.getpid()
    if kind == "exit":
        os._exit(value)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise ValueError(value)
    if kind == "refuse":
        raise MissingError(value, "mend it")
    if kind == "unpicklable":
        return lambda: None
    if kind == "sleep":
        Path(value + ".new").write_text(str(os.getpid()))
        Path(value + ".new").rename(value)
        time.sleep(60)
    if kind == "write late":
        Path(value, "begun").touch()
        time.sleep(1)
        Path(value, "done").touch()
    if kind == "hold":
        megabytes, seconds = value
        held = bytearray(os.urandom(1 << 20)) * megabytes
        time.sleep(seconds)
        os._exit(9)
    if kind == "span":
        # Begin and end on a clock that all processes share.
        begin = time.monotonic()
        time.sleep(value[1])
        return begin, time.monotonic()
    if kind == "threads":
        import numpy
        from threadpoolctl import threadpool_info

        numpy.ones((8, 8)) @ numpy.ones((8, 8))
        return [pool["num_threads"] for pool in threadpool_info()]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module that workers can import."""
    # The first test to need the server of the workers starts it for the whole session: what it has
    # not loaded, every worker of the tests of ingest would load by itself.
    forkserver.set_forkserver_preload(["pipeline.volumes.cases"])
    forkserver.ensure_running()
    folder = tmp_path_factory.mktemp("work")
    (folder / "work_on_items.py").write_text(WORK)
    return folder


@pytest.fixture
def work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.syspath_prepend(folder)
    function: Work = importlib.import_module("work_on_items").work
    return function


def _outcomes(
    work: Work, items: list[Item], workers: int = 2, timeout: float = 60
) -> dict[Item, Outcome[Item, Any]]:
    outcomes = list(run_each(work, items, workers, timeout))
    assert len(outcomes) == len(items)
    return {outcome.item: outcome for outcome in outcomes}


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_item_has_its_result(work: Work, workers: int) -> None:
    items = [("double", number) for number in range(7)]
    outcomes = _outcomes(work, items, workers)
    assert {item[1]: outcome.result for item, outcome in outcomes.items()} == {n: 2 * n for n in range(7)}
    assert all(outcome.error is None for outcome in outcomes.values())


def test_without_items_there_is_nothing_to_do(work: Work) -> None:
    assert list(run_each(work, [], 2)) == []


def test_a_worker_that_dies_loses_its_one_item_only(work: Work) -> None:
    deaths: list[Item] = [("exit", 3), ("kill", None), ("exit", 0)]
    items = [("double", number) for number in range(6)]
    outcomes = _outcomes(work, [deaths[0], *items[:3], deaths[1], deaths[2], *items[3:]])
    assert [outcomes[item].result for item in items] == [0, 2, 4, 6, 8, 10]
    reasons = [str(outcomes[item].error) for item in deaths]
    assert "exit code 3" in reasons[0]
    assert "exit code -9" in reasons[1]
    assert "exit code 0" in reasons[2]
    assert all(type(outcomes[item].error) is ResourceError for item in deaths)


def test_the_death_of_a_worker_tells_what_it_held(work: Work) -> None:
    item = ("hold", (200, 1.5))
    error = _outcomes(work, [item])[item].error
    assert isinstance(error, ResourceError)
    said = re.fullmatch(r"its worker died \(exit code 9, having held (\d+) MiB\)", error.reason)
    assert said, error.reason
    assert 200 <= int(said[1]) < 2000
    assert "more memory" in error.remedy


def test_an_exception_becomes_an_error_that_names_it(work: Work) -> None:
    outcomes = _outcomes(work, [("raise", "boom"), ("double", 1)])
    error = outcomes[("raise", "boom")].error
    assert type(error) is DataError, "no fault of this machine: another run would not mend it"
    assert "ValueError: boom" in error.reason
    assert outcomes[("double", 1)].result == 2


def test_an_error_of_ours_arrives_as_it_was_raised(work: Work) -> None:
    error = _outcomes(work, [("refuse", "a: no image")])[("refuse", "a: no image")].error
    assert type(error) is MissingError
    assert (error.reason, error.remedy) == ("a: no image", "mend it")


def test_a_result_that_cannot_travel_is_an_error(work: Work) -> None:
    outcomes = _outcomes(work, [("unpicklable", 0), ("double", 1)], workers=1)
    assert outcomes[("unpicklable", 0)].error is not None
    assert outcomes[("double", 1)].result == 2


def test_what_takes_too_long_is_given_up(work: Work, tmp_path: Path) -> None:
    long = ("sleep", str(tmp_path / "sleeps"))
    start = time.monotonic()
    outcomes = _outcomes(work, [long, ("double", 1), ("double", 2)], timeout=3)
    assert "took longer than 3 s" in str(outcomes[long].error)
    assert isinstance(outcomes[long].error, ResourceError)
    assert outcomes[("double", 1)].result == 2
    assert outcomes[("double", 2)].result == 4
    assert time.monotonic() - start < 20


def _most_at_once(outcomes: dict[Item, Outcome[Item, Any]]) -> int:
    """The most that items needed together, at any time."""
    spans = [(outcome.result, item[1][0]) for item, outcome in outcomes.items()]
    return max(
        sum(needs for (other, until), needs in spans if other <= begin < until)
        for begin in (begin for (begin, _), _ in spans)
    )


def test_without_a_budget_workers_work_at_the_same_time(work: Work) -> None:
    outcomes = _outcomes(work, [("span", (1, 1 + number / 100)) for number in range(4)], workers=4)
    assert _most_at_once(outcomes) > 1


@pytest.mark.parametrize(("total", "most"), [(10, 10), (7, 7), (5, 5)])
def test_all_items_together_never_need_more_than_the_budget(work: Work, total: int, most: int) -> None:
    needs = [5, 2, 3, 1, 4, 2, 5, 1, 1, 1]
    items = [("span", (need, 0.2 + number / 1000)) for number, need in enumerate(needs)]
    budget = Budget(total, lambda item: item[1][0])
    outcomes = {outcome.item: outcome for outcome in run_each(work, items, 4, 60, budget)}
    assert outcomes.keys() == set(items)
    assert all(outcome.error is None for outcome in outcomes.values())
    assert _most_at_once(outcomes) <= most


def test_what_needs_more_than_the_budget_runs_alone(work: Work) -> None:
    items = [("span", (need, 0.3 + number / 1000)) for number, need in enumerate([1, 1, 100, 1, 1])]
    budget = Budget(10, lambda item: item[1][0])
    outcomes = {outcome.item: outcome for outcome in run_each(work, items, 3, 60, budget)}
    assert outcomes.keys() == set(items)
    begin, end = outcomes[items[2]].result
    for item in items[:2] + items[3:]:
        other, until = outcomes[item].result
        assert until <= begin or end <= other


def test_where_nothing_needs_memory_the_budget_does_not_matter(work: Work) -> None:
    items: list[Item] = [("double", number) for number in range(5)]
    outcomes = list(run_each(work, items, 2, 60, Budget(0, lambda item: 0)))
    assert sorted(outcome.result for outcome in outcomes if outcome.result is not None) == [0, 2, 4, 6, 8]


def test_a_worker_computes_in_one_thread(work: Work) -> None:
    (outcome,) = _outcomes(work, [("threads", None)], workers=1).values()
    assert outcome.result
    assert set(outcome.result) == {1}


def test_a_worker_is_used_for_more_than_one_item(work: Work) -> None:
    outcomes = _outcomes(work, [("pid", number) for number in range(6)], workers=1)
    processes = {outcome.result for outcome in outcomes.values()}
    assert len(processes) == 1
    assert os.getpid() not in processes


def test_a_worker_killed_while_it_waits_loses_nothing(work: Work) -> None:
    seen = []
    for outcome in run_each(work, [("pid", number) for number in range(4)], 1):
        assert outcome.error is None
        assert outcome.result is not None
        seen.append(outcome.result)
        process = psutil.Process(outcome.result)
        process.kill()
        process.wait(5)
    assert len(set(seen)) == 4


def test_giving_up_halfway_ends_the_workers(work: Work, tmp_path: Path) -> None:
    outcomes = run_each(work, [("sleep", str(tmp_path / "sleeps")), ("pid", 0)], 2)
    idle = next(outcomes).result
    while not (tmp_path / "sleeps").is_file():
        time.sleep(0.01)
    busy = int((tmp_path / "sleeps").read_text())
    assert psutil.pid_exists(busy)
    outcomes.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while (psutil.pid_exists(idle) or psutil.pid_exists(busy)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(idle)
    assert not psutil.pid_exists(busy)


def test_a_worker_writes_nothing_more_once_its_parent_was_killed(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
            import sys
            sys.path.insert(0, {str(folder)!r})
            from work_on_items import work
            from pipeline.volumes.workers import run_each
            if __name__ == "__main__":
                list(run_each(work, [("write late", {str(tmp_path)!r})], 1))
        """)
    )
    with subprocess.Popen([sys.executable, program]) as parent:
        while not (tmp_path / "begun").exists():
            assert parent.poll() is None
            time.sleep(0.02)
        parent.kill()
    time.sleep(1.3)
    assert not (tmp_path / "done").exists()
