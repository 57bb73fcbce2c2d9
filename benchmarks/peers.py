"""What Hounsfield is compared with: in an environment of its own, in a process that takes turns."""

import atexit
import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def peer_python(name: str, *requirements: str) -> Path:
    """The interpreter of an environment that holds `requirements`, made at the first call.

    Args:
        name: of the environment, `.hounsfield/peers/NAME`.
        requirements: as pip takes them, with their versions.
    """
    # Here, as the peer's interpreter, which imports this module too, may lack what that needs.
    from pipeline.workspace import home, project_root

    folder = home(project_root()) / "peers" / name
    python, done = folder / "bin" / "python", folder / "complete"
    if not done.is_file() or done.read_text() != "\n".join(requirements):
        print(f"installing {', '.join(requirements)} in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return python


ANSWER = "answer: "


class InTurn:
    """A process that works while it is asked something, and is stopped otherwise with all that it started.

    So none of several works ahead at the others' cost, and whatever else runs slows all of them.

    Args:
        command: reads questions and writes answers as `questions` and `answer` do.
        name: for messages.
        environment: what differs from that of this process.
    """

    def __init__(self, command: Sequence[str | Path], name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment,
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # One that is stopped would stay for ever.
        atexit.register(self.end)

    def ready(self) -> Any:
        """What it says of itself, once it can be asked."""
        said = self._answer()
        self._signal(signal.SIGSTOP)
        return said

    def ask(self, question: Any) -> Any:
        """Its answer; both are JSON."""
        assert self.process.stdin is not None
        self._signal(signal.SIGCONT)
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        said = self._answer()
        self._signal(signal.SIGSTOP)
        return said

    def end(self) -> None:
        """Kill it and all that it started."""
        if self.process.poll() is None:
            self._signal(signal.SIGKILL)
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
            print(line, end="", file=sys.stderr)
        raise SystemExit(f"{self.name} ended")

    def _signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


def answer(said: Any) -> None:
    """What a process of `InTurn` says: that it is ready, or an answer."""
    print(ANSWER + json.dumps(said), flush=True)


def questions() -> Iterator[Any]:
    """What a process of `InTurn` is asked."""
    for line in sys.stdin:
        yield json.loads(line)
