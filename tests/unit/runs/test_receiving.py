import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, ParamsError, Unfinished
from pipeline.params import AirflowParams
from pipeline.runs import receiving
from pipeline.runs.incoming import listing
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


def test_what_the_project_cannot_take_in_is_left_alone_for_an_hour_too(toy: Toy, bucket: Any) -> None:
    bucket.put({"liver/second.txt": b"liver 2\n"})
    text = (toy.root / "params.yaml").read_text()
    (toy.root / "params.yaml").write_text(text.replace("  liver:", "  kidney:"))
    toy.commit("no liver")
    with pytest.raises(ParamsError, match="no organ 'liver'"):
        received(toy, bucket.url("liver"))
    assert received(toy, bucket.url("liver")) is None


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


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch, toy: Toy) -> Callable[..., None]:
    """Has an attempt killed when it calls a function, or when that has returned."""

    def kill(incoming: str | Path, name: str, *, after: bool = False) -> None:
        real = getattr(receiving, name)

        def dies(*arguments: Any, **options: Any) -> None:
            if after:
                real(*arguments, **options)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(receiving, name, dies)
            with pytest.raises(KeyboardInterrupt):
                received(toy, incoming)

    return kill


def test_the_first_scans_of_an_organ_are_taken_in_after_a_kill(
    toy: Toy, incoming: Path, killed: Callable[..., None]
) -> None:
    toy.git("rm", "-q", "data/raw/liver.dvc")
    toy.commit("no scans yet")
    killed(incoming, "_published")
    assert received(toy, incoming) is not None
    assert committed(toy) == ["second.txt: liver 2"]


def test_scans_that_were_pushed_before_a_kill_are_told_by_the_next_attempt_once(
    toy: Toy, incoming: Path, killed: Callable[..., None]
) -> None:
    killed(incoming, "push_commit", after=True)
    head = toy.git("rev-parse", "HEAD")
    done = received(toy, incoming)
    assert done is not None
    assert done.commit == head == toy.git("rev-parse", "HEAD")
    assert received(toy, incoming) is None


@pytest.fixture
def arriving(
    toy: Toy, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Received | None]:
    """Has a file arrive while scans are taken in."""
    copy_new = receiving.copy_new

    def take_in(name: str, text: str) -> Received | None:
        def slow(*arguments: Any) -> list[str]:
            (incoming / name).write_text(text)
            return copy_new(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(receiving, "copy_new", slow)
            return received(toy, incoming)

    return take_in


def test_what_arrives_while_scans_are_taken_in_is_of_the_next_attempt(
    toy: Toy, incoming: Path, arriving: Callable[[str, str], Received | None]
) -> None:
    assert arriving("third.txt", "half of liver 3") is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2"]
    (incoming / "third.txt").write_text("liver 3\n")
    assert received(toy, incoming) is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2", "third.txt: liver 3"]


def test_what_changes_while_it_is_taken_in_is_waited_for(
    toy: Toy, incoming: Path, arriving: Callable[[str, str], Received | None]
) -> None:
    assert arriving("second.txt", "half of another") is None
    assert toy.git("rev-list", "--count", "HEAD") == "1"
    (incoming / "second.txt").write_text("another\n")
    assert received(toy, incoming) is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: another"]


def test_what_arrives_after_the_look_is_waited_for(
    toy: Toy, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed_later(source: str) -> dict[str, str]:
        if not (incoming / "third.txt").exists():
            (incoming / "third.txt").write_text("half of liver 3")
        return listing(source)

    monkeypatch.setattr(receiving, "listing", listed_later)
    assert received(toy, incoming) is None
    assert toy.git("rev-list", "--count", "HEAD") == "1"


def test_what_arrives_while_a_prefix_is_fetched_is_waited_for(
    toy: Toy, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_organ = receiving.fetch_organ

    def slow(*arguments: Any) -> None:
        bucket.put({"liver/third.txt": b"half of liver 3"})
        fetch_organ(*arguments)

    bucket.put({"liver/second.txt": b"liver 2\n"})
    monkeypatch.setattr(receiving, "fetch_organ", slow)
    assert received(toy, bucket.url("liver")) is None
    assert toy.git("rev-list", "--count", "HEAD") == "1"


@pytest.mark.parametrize("has_scans", [True, False])
def test_what_was_taken_away_after_a_refusal_is_not_taken_in(
    toy: Toy, incoming: Path, has_scans: bool
) -> None:
    if not has_scans:
        toy.git("rm", "-q", "data/raw/liver.dvc")
        toy.commit("no scans yet")
    for name in ("first.txt", "wrong.txt", "z\\.txt"):
        (incoming / name).write_text("of somebody else")
    with pytest.raises(DataError, match="has a backslash"):
        received(toy, incoming)
    for name in ("first.txt", "wrong.txt", "z\\.txt"):
        (incoming / name).unlink()
    assert received(toy, incoming) is not None
    assert committed(toy) == ["first.txt: liver 1"] * has_scans + ["second.txt: liver 2"]


def test_an_object_that_is_gone_after_a_kill_is_not_taken_in(
    toy: Toy, bucket: Any, killed: Callable[..., None]
) -> None:
    bucket.put({"liver/second.txt": b"liver 2\n"})
    received(toy, bucket.url("liver"))
    bucket.put({"liver/wrong.txt": b"of somebody else", "liver/third.txt": b"liver 3\n"})
    killed(bucket.url("liver"), "_published")
    bucket.client.delete_object(Bucket=bucket.name, Key="liver/wrong.txt")
    assert received(toy, bucket.url("liver")) is not None
    assert committed(toy) == ["first.txt: liver 1", "second.txt: liver 2", "third.txt: liver 3"]


def test_a_dvc_or_git_that_was_killed_blocks_nobody(toy: Toy, incoming: Path) -> None:
    received(toy, incoming)
    clone = toy.root / ".hounsfield/workspaces/liver/.receive"
    # As in a container that was started anew: the number is somebody else's by now.
    killed = {"pid": os.getppid(), "cmd": "dvc add"}
    note = {"write": {str(clone / "data/raw/liver"): killed}}
    (clone / ".dvc/tmp/rwlock").write_text(json.dumps(note))
    (clone / ".git/index.lock").touch()
    (incoming / "third.txt").write_text("liver 3\n")
    assert received(toy, incoming) is not None


def test_scans_go_where_the_project_has_moved_to(toy: Toy, tmp_path: Path, incoming: Path) -> None:
    home = {"HOUNSFIELD_HOME": str(tmp_path / "home")}
    received(toy, incoming, **home)
    moved = Toy(Path(shutil.copytree(toy.root, tmp_path / "moved", symlinks=True)))
    (incoming / "third.txt").write_text("liver 3\n")
    done = received(moved, incoming, **home)
    assert done is not None
    assert done.commit == moved.git("rev-parse", "HEAD")


def test_scans_are_taken_in_after_the_home_was_moved(toy: Toy, tmp_path: Path, incoming: Path) -> None:
    received(toy, incoming)
    home = (toy.root / ".hounsfield").rename(tmp_path / "home")
    (incoming / "third.txt").write_text("liver 3\n")
    assert received(toy, incoming, HOUNSFIELD_HOME=str(home)) is not None


def test_a_remote_that_was_corrected_in_the_project_is_that_of_the_next_attempt(
    toy: Toy, tmp_path: Path, incoming: Path
) -> None:
    address = {"HOUNSFIELD_PROJECT": toy.root.as_uri(), "HOUNSFIELD_HOME": str(tmp_path / "home")}
    toy.git("config", "receive.denyCurrentBranch", "updateInstead")
    store = str(tmp_path / "store")
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "store", store)
    call(toy.root, "dvc", "push", "-q")
    toy.commit("a remote")
    received(toy, incoming, **address)
    for place, name in (("../store", "third"), (store, "fourth")):
        call(toy.root, "dvc", "remote", "modify", "-q", "store", "url", place)
        toy.commit("another place")
        (incoming / f"{name}.txt").write_text(f"liver {name}\n")
        if place != store:
            with pytest.raises(ParamsError, match="depends on where a clone lies"):
                received(toy, incoming, **address)
    assert received(toy, incoming, **address) is not None


def test_a_manifest_that_was_mended_in_the_project_is_that_of_the_next_attempt(toy: Toy, bucket: Any) -> None:
    manifest = toy.root / "data/raw/liver.s3.json"
    manifest.write_text("<<<<<<< ours")
    toy.commit("a merge gone wrong")
    bucket.put({"liver/second.txt": b"liver 2\n"})
    with pytest.raises(DataError, match="does not say what was fetched"):
        received(toy, bucket.url("liver"))
    toy.git("rm", "-q", "data/raw/liver.s3.json")
    toy.commit("mended")
    bucket.put({"liver/third.txt": b"liver 3\n"})
    assert received(toy, bucket.url("liver")) is not None


def test_credentials_that_were_renewed_are_those_that_scans_are_pushed_with(
    toy: Toy, tmp_path: Path, incoming: Path
) -> None:
    received(toy, incoming)
    call(toy.root, "dvc", "remote", "add", "-q", "-d", "--local", "store", str(tmp_path / "store"))
    (incoming / "third.txt").write_text("liver 3\n")
    assert received(toy, incoming) is not None
    assert (tmp_path / "store").is_dir()
