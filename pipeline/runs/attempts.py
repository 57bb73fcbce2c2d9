"""One attempt at a time at a stage: what a killed worker left running is ended by the next attempt.

A worker that dies by `kill -9` takes nothing with it. The stage it had started lives on, and would
write the same files as the stage of the retry.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.atomic import read_json, write_json
from pipeline.progress import console

if TYPE_CHECKING:
    import psutil

PLACE = Path(".dvc/tmp")
GRACE = 20.0
"""Seconds from the request to end to the order."""
TAIL = 200
"""Lines of a command's stderr that are kept."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Negative: by that signal."""
    tail: tuple[str, ...]
    """The last lines of its stderr."""
    stopped: bool
    """Whether this process was asked to stop meanwhile."""


@contextmanager
def only_attempt(root: Path, what: str) -> Iterator["Attempt"]:
    """Hold the workspace `root` to do `what`, a stage.

    An earlier attempt at the same that still runs is ended first; a stage that runs beside it in the
    pipeline is waited for, because DVC keeps one book for all of them.
    """
    place = root / PLACE
    place.mkdir(parents=True, exist_ok=True)
    with (
        open(place / f"attempt.{what}.lock", "a", encoding="utf-8") as own,
        open(place / "workspace.lock", "a", encoding="utf-8") as common,
    ):
        attempt = Attempt(root, place / f"attempt.{what}.json", (own.fileno(), common.fileno()))
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _end_noted(attempt.record)
            console.print(f"waiting for another attempt at {what} to let go of {root}", markup=False)
            # Long only where it could not be seen, because it is another machine's or container's.
            fcntl.flock(own, fcntl.LOCK_EX)
        # Also where nobody holds the lock: a stage may have outlived DVC, which held it.
        _end_noted(attempt.record)
        attempt.note()
        try:
            fcntl.flock(common, fcntl.LOCK_EX)
            forget_killed(root)
            yield attempt
        finally:
            attempt.record.unlink(missing_ok=True)


def forget_killed(root: Path) -> None:
    """Remove DVC's note of who is at work in the workspace `root`, in which nobody runs DVC now.

    It goes by numbers of processes: after a reboot, or in a container, a stale one may be somebody's. And it
    is written in place, so that a kill leaves half of it.
    """
    (root / PLACE / "rwlock").unlink(missing_ok=True)


class Attempt:
    """The right to run commands in a workspace.

    Args:
        root: the workspace.
        record: where it is written down who is at work.
        locks: the descriptors that hold the right.
    """

    def __init__(self, root: Path, record: Path, locks: tuple[int, ...]) -> None:
        self.record = record
        self._root, self._locks = root, locks

    def note(self, command: int | None = None) -> None:
        """Write down who is at work, for the attempt that may have to end it."""
        import psutil

        # All it starts is younger: a number that was given anew belongs to none of them.
        began = psutil.Process().create_time()
        who = {"process": os.getpid(), "command": command, "began": began, "numbers": _numbers()}
        write_json(self.record, who)

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> Ended:
        """Run a command, whose output is this process's; asked to stop, it ends the command and says so."""
        process = subprocess.Popen(
            command,
            cwd=self._root,
            env=dict(env),
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # A session of its own, so that it can be ended as a whole; with the locks, so that the next
            # attempt sees it even if this process is gone.
            start_new_session=True,
            pass_fds=self._locks,
        )
        self.note(process.pid)
        stopped = False

        def stop(_signal: int, _frame: Any) -> None:
            nonlocal stopped
            stopped = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            # By a timer, because the loop below waits for lines.
            signal.alarm(int(GRACE))

        def insist(_signal: int, _frame: Any) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        tail: deque[str] = deque(maxlen=TAIL)
        with _handling({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGALRM: insist}):
            assert process.stderr is not None
            with process.stderr as lines:
                for line in lines:
                    sys.stderr.write(line)
                    sys.stderr.flush()
                    tail.append(line.rstrip())
            code = process.wait()
            signal.alarm(0)
        return Ended(code, tuple(tail), stopped)


def end_attempts(root: Path) -> None:
    """End whatever runs in the workspace `root`."""
    for record in (root / PLACE).glob("attempt.*.json"):
        _end_noted(record)


def _end_noted(record: Path) -> None:
    """End what is left of the attempt that wrote `record`."""
    if not record.is_file():
        return
    who = read_json(record)
    left = _left_of(who) if who["numbers"] == _numbers() else []
    if left:
        console.print(f"ending {len(left)} processes that an earlier attempt left behind", markup=False)
    _end(left)


def _left_of(who: dict[str, Any]) -> list["psutil.Process"]:
    """The processes of an attempt: its own, the session of its command, and all they started."""
    import psutil

    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            is_first = process.pid == who["process"] and process.create_time() == who["began"]
            in_session = process.create_time() >= who["began"] and os.getsid(process.pid) == who["command"]
            if (is_first or in_session) and process.pid != os.getpid():
                found |= {one.pid: one for one in [process, *process.children(recursive=True)]}
    found.pop(os.getpid(), None)
    return list(found.values())


def _end(processes: list["psutil.Process"]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=GRACE)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE)


def _numbers() -> str:
    """Where process numbers mean what they mean here: this boot, this namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    return " ".join(
        [boot.read_text().strip() if boot.is_file() else "", os.readlink(space) if space.is_symlink() else ""]
    )


@contextmanager
def _handling(handlers: Mapping[int, Callable[[int, Any], None]]) -> Iterator[None]:
    """Handle signals while the context lasts."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
