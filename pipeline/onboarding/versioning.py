"""DVC's commands, with DVC's own sentence when one fails."""

import subprocess
from pathlib import Path

from pipeline.errors import HounsfieldError, MissingError
from pipeline.runs.attempts import forget_killed
from pipeline.runs.commands import NOT_KEPT, dvc_command

CUT_SHORT = "Unable to read RWLock-file"
"""What DVC says of a note that a kill left half written."""


def run_dvc(root: Path, *arguments: str, lock: int | None = None) -> str:
    """What a DVC command prints.

    Raises:
        MissingError: the project is not under DVC, or DVC is not installed.
        HounsfieldError: it failed, with DVC's own sentence.
    """
    done = _done(root, arguments, lock)
    if CUT_SHORT in done.stderr:
        # With half a note DVC refuses every command.
        forget_killed(root)
        done = _done(root, arguments, lock)
    if done.returncode == 0 and NOT_KEPT not in done.stderr:
        return done.stdout
    said = [line for line in done.stderr.splitlines() if line.strip()]
    sentence = next(
        (line for line in said if line.startswith("ERROR")), said[-1] if said else "no reason given"
    )
    sentence = sentence.removeprefix("ERROR: ").rstrip(".")
    if "not inside of a DVC repository" in sentence:
        raise MissingError("the project is not under DVC", "run dvc init in it")
    if "No module named dvc" in sentence:
        raise MissingError("DVC is not installed", "run make env")
    raise HounsfieldError(
        f"dvc {' '.join(arguments)} failed and nothing was added", f"see to what it says: {sentence}"
    )


def _done(root: Path, arguments: tuple[str, ...], lock: int | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        dvc_command(*arguments),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        # DVC lives on if this process is killed; with the lock, so that the next run waits for its end.
        pass_fds=() if lock is None else (lock,),
    )
