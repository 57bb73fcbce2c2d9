"""What a stage reads, seen to be the same when it ends as when it began.

DVC takes the hashes of a stage's files and parameters when the stage has ended. What somebody changed
meanwhile, editing `params.yaml` beside a training or copying scans beside an ingest, would be recorded as
what the products were made of, and would never be looked at again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.atomic import sha256_json
from pipeline.errors import Unfinished
from pipeline.params import load_organ
from pipeline.workspace import dependencies


@contextmanager
def unchanged(root: Path, stage: str, organ: str) -> Iterator[None]:
    """Run a stage of an organ, all of whose reading lies inside.

    Raises:
        Unfinished: what DVC would record as read is no longer what was there at the beginning.
    """
    before = _read_by(root, stage, organ)
    yield
    after = _read_by(root, stage, organ)
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        raise Unfinished(
            f"{organ}: {' and '.join(changed)} changed while {stage} ran",
            f"run it again; if the change makes no difference, dvc commit {stage}@{organ} takes what it made",
        )


def _read_by(root: Path, stage: str, organ: str) -> dict[str, Any]:
    """The parameters and the state of each dependency of a stage, by name."""
    found: dict[str, Any] = {"params.yaml": load_organ(root / "params.yaml", organ).section(stage)}
    for path in dependencies(root, stage, organ):
        # Not file by file in the message: names of files may be names of patients.
        found[str(path)] = sha256_json(sorted(_states(root / path)))
    return found


def _states(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of change of each file that DVC counts to `path`, itself or below it."""
    files = [str(path)]
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        # As .dvcignore says.
        files += [os.path.join(folder, name) for name in names if ".partial." not in name]
    for file in files:
        with suppress(FileNotFoundError):
            status = os.stat(file)
            if not os.path.isdir(file):
                yield file, status.st_size, status.st_mtime_ns
