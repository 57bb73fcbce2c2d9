import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, ParamsError, Unfinished
from pipeline.params import AirflowParams
from pipeline.runs.opening import open_run
from pipeline.runs.receiving import Received, receive
from tests.unit.runs.conftest import Toy, call

AT_ONCE = {"settle_seconds": 0}


def received(toy: Toy, incoming: str | Path, **settings: str) -> Received | None:
    return receive(toy.settings(**settings), "liver", AirflowParams(incoming=str(incoming), **AT_ONCE))


def committed(toy: Toy) -> list[str]:
    """Names and texts of the scans as the project's last commit has them."""
    call(toy.root, "dvc", "checkout", "--force", "data/raw/liver.dvc")
    raw = toy.root / "data/raw/liver"
    return [f"{path.relative_to(raw)}: {path.read_text().strip()}" for path in sorted(raw.rglob("*.txt"))]


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    (folder / "second.txt").write_text("liver 2\n")
    return folder


def test_new_scans_of_a_folder_become_a_commit_that_a_run_sees(toy: Toy, incoming: Path) -> None:
    before = toy.git("rev-parse", "HEAD")
    done = received(toy, incoming)
    assert done is not None
    assert toy.git("rev-parse", "HEAD") == done.commit
    assert toy.git("rev-parse", "HEAD~1") == before
    assert toy.git("diff", "--name-only", before, "HEAD") == "data/raw/liver.dvc"
    assert toy.git("status", "--short") == ""
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2"]
    run = open_run(toy.settings(), "liver", "one")
    assert run is not None
    assert (run.folder / "data/raw/liver/second.txt").read_text() == "liver 2\n"


def test_what_was_taken_in_is_not_taken_in_twice(toy: Toy, incoming: Path) -> None:
    received(toy, incoming)
    head = toy.git("rev-parse", "HEAD")
    assert received(toy, incoming) is None
    os.utime(incoming / "second.txt", ns=(1, 1))
    assert received(toy, incoming) is None, "the same bytes, written again"
    assert toy.git("rev-parse", "HEAD") == head


def test_what_has_not_settled_waits(toy: Toy, incoming: Path) -> None:
    params = AirflowParams(incoming=str(incoming), settle_seconds=3600)
    assert receive(toy.settings(), "liver", params) is None
    assert toy.git("rev-list", "--count", "HEAD") == "1"


def test_what_others_added_to_the_scans_meanwhile_stays(toy: Toy, incoming: Path) -> None:
    received(toy, incoming)
    committed(toy)
    toy.add_scan("liver", "by_hand", "liver 9\n")
    (incoming / "third.txt").write_text("liver 3\n")
    assert received(toy, incoming) is not None
    assert committed(toy) == [
        "by_hand.txt: liver 9",
        "first.txt: liver 1",
        "second.txt: liver 2",
        "third.txt: liver 3",
    ]


def test_a_project_that_cannot_be_pushed_to_is_tried_again(toy: Toy, incoming: Path) -> None:
    tool = (toy.root / "tool.py").read_text()
    (toy.root / "tool.py").write_text("# being written")
    with pytest.raises(Unfinished, match="main of the project cannot be pushed to") as raised:
        received(toy, incoming)
    assert raised.value.exit_code == 75
    (toy.root / "tool.py").write_text(tool)
    assert received(toy, incoming) is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2"]


def test_what_cannot_be_taken_in_is_refused_and_left_alone_for_an_hour(toy: Toy, incoming: Path) -> None:
    (incoming / "a\\b.txt").write_text("x")
    with pytest.raises(DataError, match="has a backslash"):
        received(toy, incoming)
    assert received(toy, incoming) is None
    assert toy.git("rev-list", "--count", "HEAD") == "1"
    (incoming / "a\\b.txt").unlink()
    assert received(toy, incoming) is not None


def test_an_organ_without_a_place_is_refused_with_what_to_set(toy: Toy) -> None:
    with pytest.raises(ParamsError, match=r"set airflow\.incoming"):
        receive(toy.settings(), "liver", AirflowParams())


def test_new_objects_of_a_prefix_become_a_commit(toy: Toy, bucket: Any) -> None:
    bucket.put({"liver/second.txt": b"liver 2\n"})
    assert received(toy, bucket.url("liver")) is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2"]
    manifest = json.loads((toy.root / "data/raw/liver.s3.json").read_text())
    assert list(manifest["objects"]) == ["second.txt"]
    assert received(toy, bucket.url("liver")) is None
    bucket.put({"liver/second.txt": b"liver 2, corrected\n"})
    assert received(toy, bucket.url("liver")) is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2, corrected"]


def test_a_store_that_is_gone_is_asked_again_later(
    toy: Toy, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put({"liver/second.txt": b"liver 2\n"})
    there = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unfinished, match="cannot be reached") as raised:
        received(toy, bucket.url("liver"))
    assert raised.value.exit_code == 75
    monkeypatch.setenv("AWS_ENDPOINT_URL", there)
    assert received(toy, bucket.url("liver")) is not None
