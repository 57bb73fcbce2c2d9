from pathlib import Path
from typing import Any

import pytest

from pipeline.atomic import write_json
from pipeline.volumes.quarantine import Quarantine


def _row(case: str, key: str) -> dict[str, Any]:
    return {"case": case, "status": "quarantined", "reason": f"{case}: damaged", "key": key, "ml_liver": None}


def test_refused_cases_are_known_by_their_key(tmp_path: Path) -> None:
    rows = {case: _row(case, f"key of {case}") for case in ("a", "b", "c")}
    Quarantine(tmp_path).keep(rows.values())
    keys = {"a": "key of a", "b": "another key", "d": "key of a"}
    assert Quarantine(tmp_path).known(keys) == {"a": rows["a"]}


def test_a_case_that_could_not_be_hashed_is_not_remembered(tmp_path: Path) -> None:
    Quarantine(tmp_path).keep([_row("a", ""), _row("b", "key of b")])
    assert Quarantine(tmp_path).known({"a": "", "b": "key of b"}).keys() == {"b"}


def test_only_the_last_rows_are_remembered(tmp_path: Path) -> None:
    Quarantine(tmp_path).keep([_row("a", "key")])
    Quarantine(tmp_path).keep([_row("b", "key")])
    assert Quarantine(tmp_path).known({"a": "key", "b": "key"}).keys() == {"b"}


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    rows = [_row("a", "key"), _row("b", "key")]
    Quarantine(tmp_path).keep(rows)
    before = (tmp_path / Quarantine.NAME).read_bytes()
    Quarantine(tmp_path).keep(reversed(rows))
    assert (tmp_path / Quarantine.NAME).read_bytes() == before


def test_at_first_nothing_is_known(tmp_path: Path) -> None:
    assert Quarantine(tmp_path).known({"a": "key"}) == {}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"a": 1}', '{"a": {}}', '{"a": {"key": null}}', "\xff"]
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / Quarantine.NAME).write_bytes(content.encode("latin-1"))
    assert Quarantine(tmp_path).known({"a": "key"}) == {}


def test_one_damaged_row_does_not_make_another_known(tmp_path: Path) -> None:
    write_json(tmp_path / Quarantine.NAME, {"a": _row("a", "key"), "b": _row("b", "")})
    assert Quarantine(tmp_path).known({"a": "", "b": ""}) == {}
