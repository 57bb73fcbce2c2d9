"""Between the gate and the champion: a person, where `params.yaml` asks for one."""

from pathlib import Path

from pipeline.atomic import read_json
from pipeline.errors import DataError
from pipeline.registry import champions
from pipeline.registry.version import AWAITING
from pipeline.runs.stage import run_stage
from pipeline.workspace import stage_files

STAGE = "register"


def awaited_version(root: Path, organ: str) -> int | None:
    """The version that waits for approval by the decision in the workspace; None: none does."""
    record = root / stage_files(root, STAGE, organ)["registry"]
    decision = read_json(record) if record.is_file() else {}
    waits = decision.get("decision") == AWAITING
    return int(decision["challenger_version"]) if waits else None


def promote_version(root: Path, organ: str, version: int, by: str, reason: str) -> int:
    """Note who approves and run `register` again, which makes the version champion; its exit code.

    Raises:
        DataError: another version waits.
    """
    waits = awaited_version(root, organ)
    if waits is not None and waits != version:
        raise DataError(f"{organ}: version {waits} waits for approval, not {version}")
    if waits is not None:
        champions.approve(root, organ, version, by, reason)
    return run_stage(root, STAGE, organ, force=True)
