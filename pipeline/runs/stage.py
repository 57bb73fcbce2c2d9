"""One stage of one organ, as `dvc repro --single-item` runs it, in a way that can be tried again."""

import os
import re
from pathlib import Path

from pipeline.errors import ParamsError, Unfinished
from pipeline.graph import load_stages
from pipeline.lockfile import keep, mend
from pipeline.params import load_organ
from pipeline.runs.attempts import Ended, only_attempt
from pipeline.runs.commands import NOT_KEPT, dvc_command, dvc_environment
from pipeline.runs.errors import FINAL
from pipeline.runs.workspaces import find_run
from pipeline.workspace import check_inputs

EXITED = re.compile(r"exited with (-?\d+)")
"""How DVC tells the exit code of a stage's command."""


def run_stage(root: Path, stage: str, organ: str, *, force: bool = False) -> int:
    """Run a stage, unless its files are up to date, and return the exit code to leave with.

    Args:
        root: the workspace.
        stage: of `dvc.yaml`.
        organ: of `params.yaml`.
        force: run it even if its files are up to date.

    Returns:
        0, or the code of an error that the stage has told in a sentence and that no retry will mend.

    Raises:
        ParamsError: `dvc.yaml` has no such stage, or `params.yaml` no such organ.
        MissingError: what an earlier stage makes is not there.
        Unfinished: it was stopped, or ended in a way that the next attempt may mend.
    """
    stages = load_stages(root)
    if stage not in stages:
        raise ParamsError(f"dvc.yaml has no stage '{stage}'. It has: {', '.join(stages)}.")
    load_organ(root / "params.yaml", organ)
    check_inputs(root, stage, organ)
    command = dvc_command("repro", *(["--force"] if force else []), "--single-item", f"{stage}@{organ}")
    with only_attempt(root, stage) as attempt:
        # The attempt before may have been killed while DVC wrote its lock.
        mend(root)
        keep(root)
        ended = attempt.run(command, _environment(root))
    lost = next((line for line in ended.tail if line.startswith(NOT_KEPT)), None)
    if ended.code == 0 and lost is not None:
        raise Unfinished(
            f"{organ}: DVC's cache did not keep what the stage {stage} made ({lost.removeprefix('ERROR: ')})",
            "make room for it; the next attempt goes on from where it was",
        )
    if ended.code == 0:
        return 0
    return _code_of(stage, organ, ended)


def _environment(root: Path) -> dict[str, str]:
    run = find_run(root)
    home = {"HOUNSFIELD_HOME": run.home} if run else {}
    # A stage in a workspace runs the workspace's code, whatever is installed.
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return dvc_environment() | home | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _code_of(stage: str, organ: str, ended: Ended) -> int:
    told = [int(code) for line in ended.tail for code in EXITED.findall(line)]
    code = told[-1] if told else ended.code
    if ended.stopped:
        raise Unfinished(f"{organ}: the stage {stage} was stopped", "the next attempt goes on from here")
    if code in FINAL:
        return code
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    reason = _reason(ended)
    raise Unfinished(
        f"{organ}: the stage {stage} {how}" + (f" ({reason})" if reason else ""),
        "the next attempt goes on from where it was",
    )


def _reason(ended: Ended) -> str:
    """What came before DVC's own error: the last line of a traceback, or the sentence of an error."""
    lines = [line for line in ended.tail if line.strip()]
    own = [
        line for line in lines if not line.startswith(("ERROR: failed to reproduce", "Running stage", ">"))
    ]
    return own[-1].strip().removeprefix("ERROR: ").removeprefix("error ") if own else ""
