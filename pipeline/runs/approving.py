"""A version that won and waits for a person: which one it is, and how it is promoted."""

from pathlib import Path
from typing import Any

from pipeline.atomic import read_json
from pipeline.errors import DataError
from pipeline.registry import champions
from pipeline.registry.version import AWAITING, PROMOTED
from pipeline.runs.stage import run_stage
from pipeline.workspace import stage_files

STAGE = "register"


def awaited_version(root: Path, organ: str) -> int | None:
    """The version that waits for approval by the decision in the workspace; None: none does."""
    decision = _decision(root, organ)
    waits = decision.get("decision") == AWAITING
    return int(decision["challenger_version"]) if waits else None


def promote_version(root: Path, organ: str, version: int, by: str, reason: str) -> int:
    """Note who approves and run `register` again, which makes the version champion; its exit code.

    Raises:
        DataError: the version does not wait.
    """
    decision = _decision(root, organ)
    found, number = decision.get("decision"), decision.get("challenger_version")
    # Promoted: by an attempt that was killed after it.
    if decision and (number != version or found not in (AWAITING, PROMOTED)):
        raise DataError(
            f"{organ}: version {version} does not wait for approval (of version {number} it says: {found})",
            f"see {_record(root, organ)} for the version that does",
        )
    if found == AWAITING:
        champions.approve(root, organ, version, by, reason)
    return run_stage(root, STAGE, organ, force=True)


def _decision(root: Path, organ: str) -> dict[str, Any]:
    """What `register` has written in the workspace; empty if nothing."""
    record = root / _record(root, organ)
    return dict(read_json(record)) if record.is_file() else {}


def _record(root: Path, organ: str) -> Path:
    return stage_files(root, STAGE, organ)["registry"]
