"""Work on many cases in processes of their own: one that dies or hangs loses its one case.

A process pool of the standard library breaks as a whole when one of its processes is killed (by
the kernel, out of memory; by a decoder that crashes). Here each worker has a pipe of its own, so
the parent knows which case went with it, names it, and starts another worker.
"""

import ctypes
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Generic, TypeVar

import psutil
from threadpoolctl import threadpool_limits

from pipeline.errors import DataError, HounsfieldError, ResourceError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's `mallopt`."""
LOOK_EVERY = 0.5
"""Seconds between looks at what a worker holds."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: a result, or an error to show."""

    item: Item
    result: Result | None
    error: HounsfieldError | None


@dataclass
class _Worker(Generic[Item]):
    process: ForkServerProcess
    pipe: Connection
    item: Item
    needs: int
    since: float
    peak: int = 0
    """Bytes, the most it was seen to hold."""


_Idle = tuple[ForkServerProcess, Connection]


class Crew:
    """Workers that wait for more after a `run_each`: starting one costs a second of imports."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._idle: list[_Idle] = []

    def __enter__(self) -> "Crew":
        """Nothing is started before there is work."""
        return self

    def __exit__(self, *_: object) -> None:
        """End those that wait."""
        for process, _pipe in self._idle:
            process.kill()

    def hand(self, item: Any, needs: int, function: Callable[[Any], Any]) -> "_Worker[Any]":
        """Give an item to a worker that waits for one, or to a new one."""
        while self._idle:
            process, pipe = self._idle.pop()
            # It may have been killed while it waited.
            with suppress(ConnectionError):
                pipe.send((function, item))
                return _Worker(process, pipe, item, needs, time.monotonic())
        process, pipe = self._start(function)
        pipe.send((function, item))
        return _Worker(process, pipe, item, needs, time.monotonic())

    def take_back(self, worker: "_Worker[Any]") -> None:
        """Have a worker that is done wait for more."""
        self._idle.append((worker.process, worker.pipe))

    def _start(self, function: Callable[[Any], Any]) -> _Idle:
        self._context.set_forkserver_preload([function.__module__])
        parent, child = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(child,), daemon=True)
        process.start()
        child.close()
        return process, parent


@dataclass(frozen=True)
class Budget:
    """What all workers together may hold in memory."""

    total: int
    """Bytes."""
    needs: Callable[[Any], int]
    """Bytes that one item needs."""


def run_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    timeout: float = 1800.0,
    budget: Budget | None = None,
    crew: Crew | None = None,
) -> Iterator[Outcome[Item, Result]]:
    """Apply `function` to every item, `workers` at a time, and yield outcomes as they come.

    `function` and items must be importable and picklable between these processes. A
    `HounsfieldError` is passed on; any other exception becomes a `DataError` that says so, a death
    and a `timeout` (seconds an item) a `ResourceError`. Within a `budget` an item waits until those
    that are being worked on leave it room; the libraries of a worker use one thread. The workers of
    a `crew` are there for the next call.
    """
    if crew is None:
        with Crew() as crew:
            yield from run_each(function, items, workers, timeout, budget, crew)
        return
    pending = [(item, budget.needs(item) if budget else 0) for item in reversed(items)]
    busy: list[_Worker[Item]] = []
    try:
        while pending or busy:
            while pending and len(busy) < workers and _fits(pending[-1][1], busy, budget):
                busy.append(crew.hand(*pending.pop(), function))
            ready = wait([worker.pipe for worker in busy], timeout=LOOK_EVERY)
            for worker in list(busy):
                if worker.pipe in ready:
                    busy.remove(worker)
                    yield _receive(worker, crew)
                elif time.monotonic() - worker.since > timeout:
                    busy.remove(worker)
                    worker.process.kill()
                    yield Outcome(
                        worker.item,
                        None,
                        ResourceError(f"took longer than {timeout:g} s", "look at the file"),
                    )
                else:
                    worker.peak = max(worker.peak, _held(worker.process))
    finally:
        for worker in busy:
            worker.process.kill()


def _fits(needs: int, busy: Sequence[_Worker[Item]], budget: Budget | None) -> bool:
    """Whether there is room for one more; one alone is always tried, the reader refuses what is too large."""
    return budget is None or not busy or needs + sum(worker.needs for worker in busy) <= budget.total


def _held(process: ForkServerProcess) -> int:
    """Bytes of memory a process holds; 0 if it is gone."""
    try:
        return int(psutil.Process(process.pid).memory_info().rss)
    except psutil.Error:
        return 0


def _serve(pipe: Connection) -> None:
    """In a worker: answer items until the parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As many workers as cores: threads of their own would only get in each other's way.
    threadpool_limits(1)
    _keep_memory()
    while True:
        try:
            function, item = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(item), None))
        except HounsfieldError as error:
            pipe.send((None, error))
        except Exception as error:
            pipe.send((None, DataError(f"{type(error).__name__}: {error}", "report this as a bug")))


def _keep_memory() -> None:
    """Let memory that is freed be used again: fresh pages cost a sixth of the time of a large case."""
    # Only glibc has it; elsewhere pages are given back as before.
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _end_with_parent() -> None:
    """End a worker whose parent was killed: it must not write into the run that comes after."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    os._exit(1)


def _receive(worker: _Worker[Item], crew: Crew) -> Outcome[Item, Any]:
    try:
        result, error = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode
        held = f", having held {worker.peak / 2**20:.0f} MiB" if worker.peak else ""
        return Outcome(
            worker.item,
            None,
            ResourceError(f"its worker died (exit code {code}{held})", "it may need more memory"),
        )
    crew.take_back(worker)
    return Outcome(worker.item, result, error)
