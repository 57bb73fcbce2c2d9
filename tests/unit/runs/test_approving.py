import json
from pathlib import Path

import pytest
import yaml

from pipeline.errors import DataError
from pipeline.runs import approving
from pipeline.runs.approving import promote_version

DECISION = Path("registry/liver.json")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One in which `register`, run again, says so."""
    register = {"foreach": "${organs}", "do": {"cmd": "x", "outs": ["registry/${key}.json"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"register": register}}))
    (tmp_path / "registry").mkdir()
    monkeypatch.setattr(approving, "run_stage", lambda root, *_, **__: (root / "registered").touch() or 0)
    return tmp_path


@pytest.mark.parametrize(
    "decision",
    [
        {"decision": "kept", "challenger_version": 7},
        {"decision": "promoted", "challenger_version": 6},
        {"decision": "awaiting_approval", "challenger_version": 6},
    ],
)
def test_a_version_that_does_not_wait_is_not_said_to_be_promoted(
    workspace: Path, decision: dict[str, object]
) -> None:
    (workspace / DECISION).write_text(json.dumps(decision))
    with pytest.raises(DataError, match=r"liver: version 7 does not wait for approval"):
        promote_version(workspace, "liver", 7, "a person", "")
    assert not (workspace / "registered").exists()


@pytest.mark.parametrize("decision", [None, {"decision": "promoted", "challenger_version": 7}])
def test_a_promotion_that_was_killed_is_done_again(
    workspace: Path, decision: dict[str, object] | None
) -> None:
    if decision is not None:
        (workspace / DECISION).write_text(json.dumps(decision))
    assert promote_version(workspace, "liver", 7, "a person", "") == 0
    assert (workspace / "registered").exists()
