"""What is there and what is missing, with the command that mends it: `hounsfield doctor`.

Nothing heavy is loaded to find out: packages are looked up, not imported, and what other programs
have to be asked is asked side by side, with a limit.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.doctor import machine, project
from pipeline.doctor.check import Check, as_table, exit_code

__all__ = ["Check", "as_table", "examine", "exit_code"]

LOOKS: tuple[Callable[[Path], Check | list[Check]], ...] = (
    machine.python,
    machine.packages,
    machine.processor,
    machine.bfloat16,
    machine.memory,
    machine.gpu,
    machine.disk,
    project.git,
    project.dvc,
    project.remote,
    project.params,
    project.raw_data,
    project.registry,
    machine.container_engine,
)


def examine(root: Path) -> list[Check]:
    """Look at the machine and the project at `root`."""
    # Threads, because nearly all the time is spent waiting for other programs.
    with ThreadPoolExecutor(len(LOOKS)) as pool:
        answers = list(pool.map(lambda look: look(root), LOOKS))
    return [check for answer in answers for check in (answer if isinstance(answer, list) else [answer])]
