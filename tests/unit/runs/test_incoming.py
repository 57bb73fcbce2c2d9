import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.params import AirflowParams
from pipeline.runs import incoming as module
from pipeline.runs.incoming import (
    AGAIN,
    Arrivals,
    files_below,
    listing,
    look,
    names_below,
    note_refused,
    note_taken,
    ready,
    recall,
)
from pipeline.runs.receiving import _bring, copy_new

ORGAN = "liver"


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


@pytest.fixture
def params(incoming: Path) -> AirflowParams:
    return AirflowParams(incoming=str(incoming), settle_seconds=60)


def is_ready(tmp_path: Path, params: AirflowParams, now: float) -> bool:
    found, problems = ready(tmp_path / "home", {ORGAN: params}, now)
    assert problems == {}
    return found == [ORGAN]


def test_an_empty_place_is_never_ready(tmp_path: Path, params: AirflowParams) -> None:
    assert not is_ready(tmp_path, params, 0)
    assert not is_ready(tmp_path, params, 1e6)


def test_what_changes_is_waited_for(tmp_path: Path, incoming: Path, params: AirflowParams) -> None:
    (incoming / "scan").write_text("ha")
    assert not is_ready(tmp_path, params, 1000)
    (incoming / "scan").write_text("half")
    assert not is_ready(tmp_path, params, 1059)
    (incoming / "label").write_text("new")
    assert not is_ready(tmp_path, params, 1100)
    assert not is_ready(tmp_path, params, 1159)
    assert is_ready(tmp_path, params, 1160)


def test_a_file_of_the_same_size_is_another_once_it_was_written_again(
    tmp_path: Path, incoming: Path, params: AirflowParams
) -> None:
    (incoming / "scan").write_text("one")
    assert not is_ready(tmp_path, params, 1000)
    (incoming / "scan").write_text("two")
    os.utime(incoming / "scan", ns=(1, 1))
    assert not is_ready(tmp_path, params, 1060)


def test_a_clock_that_was_set_back_makes_nothing_ready_sooner(
    tmp_path: Path, incoming: Path, params: AirflowParams
) -> None:
    (incoming / "scan").write_text("one")
    assert not is_ready(tmp_path, params, 1000)
    assert not is_ready(tmp_path, params, 500)
    assert not is_ready(tmp_path, params, 559)
    assert is_ready(tmp_path, params, 560)


def test_what_was_taken_in_is_not_told_of_again_before_it_changes(
    tmp_path: Path, incoming: Path, params: AirflowParams
) -> None:
    (incoming / "scan").write_text("one")
    look(tmp_path / "home", ORGAN, params, 0)
    note_taken(tmp_path / "home", ORGAN, recall(tmp_path / "home", ORGAN).seen)
    assert not is_ready(tmp_path, params, 1e6)
    (incoming / "more").write_text("two")
    assert not is_ready(tmp_path, params, 2e6)
    assert is_ready(tmp_path, params, 2e6 + 60)


def test_what_was_refused_is_tried_again_after_an_hour(
    tmp_path: Path, incoming: Path, params: AirflowParams
) -> None:
    (incoming / "scan").write_text("one")
    look(tmp_path / "home", ORGAN, params, 0)
    note_refused(tmp_path / "home", ORGAN, recall(tmp_path / "home", ORGAN).seen)
    refused_at = recall(tmp_path / "home", ORGAN).refused_at
    assert not is_ready(tmp_path, params, refused_at + AGAIN - 1)
    assert is_ready(tmp_path, params, refused_at + AGAIN)


def test_another_place_is_looked_at_anew(tmp_path: Path, incoming: Path, params: AirflowParams) -> None:
    (incoming / "scan").write_text("one")
    look(tmp_path / "home", ORGAN, params, 0)
    other = tmp_path / "other"
    other.mkdir()
    (other / "scan").write_text("two")
    moved = params.model_copy(update={"incoming": str(other)})
    assert not is_ready(tmp_path, moved, 1000)
    assert is_ready(tmp_path, moved, 1060)


def test_a_place_out_of_reach_is_told_and_keeps_nobody_else_waiting(
    tmp_path: Path, incoming: Path, params: AirflowParams
) -> None:
    (incoming / "scan").write_text("one")
    gone = AirflowParams(incoming=str(tmp_path / "gone"))
    watched = {"spleen": gone, ORGAN: params}
    ready(tmp_path / "home", watched, 0)
    found, problems = ready(tmp_path / "home", watched, 60)
    assert found == [ORGAN]
    assert list(problems) == ["spleen"]
    assert "gone is not there" in problems["spleen"]


def test_a_file_that_is_taken_away_while_it_is_looked_at_is_not_there(
    tmp_path: Path, incoming: Path, params: AirflowParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    (incoming / "scan").write_text("one")
    before = look(tmp_path, ORGAN, params).seen
    monkeypatch.setattr(module, "names_below", lambda _: ["gone", "scan"])
    assert look(tmp_path, ORGAN, params).seen == before


def test_what_was_refused_by_a_clock_that_ran_ahead_is_tried_again() -> None:
    refused = Arrivals(seen="these", refused="these", refused_at=9e9)
    assert refused.is_ready(0, now=2e9)
    assert not refused.is_ready(0, now=9e9 + AGAIN / 2)


def test_an_empty_object_that_stands_for_a_folder_is_no_scan(bucket: Any) -> None:
    bucket.put({"liver/": b"", "liver/new/": b""})
    assert listing(bucket.url("liver")) == {}
    bucket.put({"liver/new/scan": b"one"})
    assert list(listing(bucket.url("liver"))) == ["new/scan"]


def test_hidden_files_are_not_scans(incoming: Path) -> None:
    (incoming / ".git").mkdir()
    for name in (".git/x", ".partial", "scan"):
        (incoming / name).write_text("x")
    assert [path.name for path in files_below(incoming)] == ["scan"]


def test_only_what_is_new_or_other_is_copied_and_nothing_is_removed(tmp_path: Path, incoming: Path) -> None:
    target = tmp_path / "raw"
    (incoming / "a").mkdir()
    for name in ("same", "other", "a/new"):
        (incoming / name).write_text(name)
    (target).mkdir()
    (target / "same").write_text("same")
    (target / "other").write_text("OTHER")
    (target / "mine").write_text("mine")
    assert copy_new(incoming, target, names_below(incoming)) == ["other", "a/new"]
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()) == [
        "a/new",
        "mine",
        "other",
        "same",
    ]
    assert (target / "other").read_text() == "other"
    assert copy_new(incoming, target, names_below(incoming)) == []


def test_a_name_that_is_none_elsewhere_is_refused(tmp_path: Path, incoming: Path) -> None:
    (incoming / "a\\b").write_text("x")
    with pytest.raises(DataError, match="has a backslash: rename or remove it"):
        copy_new(incoming, tmp_path / "raw", names_below(incoming))


def test_a_name_that_is_not_utf_8_is_said_to_be_so(tmp_path: Path, incoming: Path) -> None:
    (incoming / os.fsdecode(b"Ni\xe8re")).write_text("x")
    with pytest.raises(DataError, match="is not written in UTF-8: rename or remove it"):
        copy_new(incoming, tmp_path / "raw", names_below(incoming))


def test_a_file_that_cannot_be_copied_is_told_with_the_way_out(tmp_path: Path, incoming: Path) -> None:
    (incoming / "scan").write_text("x")
    (tmp_path / "raw/scan").mkdir(parents=True)
    with pytest.raises(DataError, match=r"scan cannot be taken in .Is a directory.: .*in its place"):
        copy_new(incoming, tmp_path / "raw", names_below(incoming))


def test_folders_that_links_lead_to_are_looked_into_once(tmp_path: Path, incoming: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "series").mkdir(parents=True)
    (elsewhere / "series/image").write_text("scan")
    (elsewhere / "round").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(incoming)
    (incoming / "own").mkdir()
    (incoming / "own/image").write_text("scan")
    for name, target in {
        "study": elsewhere,
        "twice": elsewhere,
        "alias": incoming / "own",
        ".x": elsewhere,
    }.items():
        (incoming / name).symlink_to(target)
    (incoming / "up").symlink_to(tmp_path)
    assert sorted(listing(str(incoming))) == ["own/image", "study/series/image"]


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path, incoming: Path) -> None:
    (incoming / "case").mkdir()
    (incoming / "case/image").symlink_to("nowhere")
    (incoming / "case/label").write_text("x")
    with pytest.raises(DataError, match="1 links lead nowhere, first 'image': fetch what they stand for"):
        _bring(tmp_path, ORGAN, str(incoming), listing(str(incoming)))
    assert not (tmp_path / "data").exists()


def test_a_folder_that_cannot_be_read_is_told_and_not_passed_over(
    tmp_path: Path, incoming: Path, params: AirflowParams, closed: Any
) -> None:
    (incoming / "below").mkdir()
    closed(incoming / "below")
    found, problems = ready(tmp_path / "home", {ORGAN: params}, 0)
    assert found == []
    assert "below cannot be read (Permission denied)" in problems[ORGAN]


def test_what_every_disk_keeps_from_others_is_passed_over(
    tmp_path: Path, incoming: Path, params: AirflowParams, closed: Any
) -> None:
    (incoming / "lost+found").mkdir()
    closed(incoming / "lost+found")
    assert ready(tmp_path / "home", {ORGAN: params}, 0)[1] == {}
