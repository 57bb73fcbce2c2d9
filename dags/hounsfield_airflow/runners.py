"""How a task runs its command: in a process of this worker, in a container, in a pod of Kubernetes.

Only what runs a stage goes into a container: what opens, publishes and closes a run works on the
workspace and on the network, and is a process always.
"""

import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from hounsfield_airflow.deployment import settings
from pipeline.params import AirflowParams
from pipeline.runs.errors import FINAL, NOTHING_CHANGED

PYTHON = "python"
"""Stands for the interpreter that has Hounsfield: here, or in the image."""
TAIL = 100
"""Lines of output that are kept to find the reason of a failure in."""


def hounsfield(*arguments: str) -> list[str]:
    """The command line of `hounsfield ARGUMENTS`; '' is left out."""
    return [PYTHON, "-m", "pipeline", *arguments]


def command_task(
    task_id: str,
    command: Sequence[str],
    *,
    cwd: str,
    stage: str | None = None,
    params: AirflowParams | None = None,
    env: Mapping[str, str] | None = None,
    **arguments: Any,
) -> BaseOperator:
    """A task that runs a command in a directory.

    Args:
        task_id: its name.
        command: a program and its arguments, each a template.
        cwd: where it runs, a template.
        stage: the stage it runs, if it does: then it runs as `HOUNSFIELD_RUNNER` says.
        params: of the organ, for the runners that need more.
        env: variables it gets, on top of those of the deployment; templates.
        arguments: of every operator: pool, retries, outlets.
    """
    deployment = settings()
    variables = deployment.environment | dict(env or {})
    if stage is not None and deployment.runner == "container":
        from hounsfield_airflow.containers import container_task

        return container_task(task_id, command, cwd, stage, variables, **arguments)
    if stage is not None and deployment.runner == "kubernetes":
        from hounsfield_airflow.pods import pod_task

        return pod_task(task_id, command, cwd, stage, variables, params or AirflowParams(), **arguments)
    return ProcessOperator(task_id=task_id, command=command, cwd=cwd, env=variables, **arguments)


class ProcessOperator(BaseOperator):
    """Runs a command without a shell; the JSON object in its last line is the task's result.

    Exit code 99 skips the task; 2, 3 and 4 fail it for good; all others fail it, to be tried again.

    Args:
        command: a program and its arguments; those that are '' are left out.
        cwd: where it runs.
        env: variables on top of those of the worker.
    """

    template_fields: Sequence[str] = ("command", "cwd", "env")
    ui_color = "#e8f3f1"

    def __init__(self, *, command: Sequence[str], cwd: str, env: Mapping[str, str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.command = list(command)
        self.cwd = cwd
        self.env = dict(env)
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> dict[str, Any] | None:
        """Run the command and return its result."""
        command = [part for part in self.command if part]
        if command[0] == PYTHON:
            command[0] = settings().python
        self.log.info("%s in %s", " ".join(self.command), self.cwd)
        try:
            self._process = subprocess.Popen(
                command,
                cwd=self.cwd,
                env={**os.environ, **self.env},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # A group of its own, to be ended as a whole.
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise AirflowFailException(f"{error.filename} is not there") from None
        tail: deque[str] = deque(maxlen=TAIL)
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.log.info("%s", line.rstrip())
                tail.append(line.rstrip())
        judge(self._process.wait(), list(tail))
        return result(list(tail))

    def on_kill(self) -> None:
        """Ask the command to end; it ends what it has started, and the next attempt goes on from there."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)


def judge(code: int, lines: Sequence[str]) -> None:
    """Raise what an exit code means to Airflow, with the one sentence that matters.

    Raises:
        AirflowSkipException: there was nothing to do.
        AirflowFailException: a person has to mend something.
        AirflowException: it may go well the next time.
    """
    if code == 0:
        return
    sentence = reason(lines) or f"the command ended with {code}"
    if code == NOTHING_CHANGED:
        raise AirflowSkipException(sentence)
    if code in FINAL:
        raise AirflowFailException(sentence)
    raise AirflowException(sentence)


def reason(lines: Sequence[str]) -> str:
    """The sentence in which a command says why it failed, else its last line."""
    said = [line for line in lines if line.strip()]
    errors = [line.removeprefix("error ") for line in said if line.startswith("error ")]
    return (errors or said or [""])[-1].strip()


def result(lines: Sequence[str]) -> dict[str, Any] | None:
    """The JSON object in the last line; None if it is not one."""
    last = next((line for line in reversed(lines) if line.strip()), "")
    if not last.startswith("{"):
        return None
    try:
        found = json.loads(last)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
