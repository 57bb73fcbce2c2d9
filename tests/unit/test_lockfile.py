from pathlib import Path

import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA

from pipeline.lockfile import LOCK, SECTION, cut_short, keep, mend

FILE = (
    "    - path: data/{name}\n      hash: md5\n      md5: 0123456789abcdef0123456789abcdef\n      size: 12\n"
)
STAGE = "  {name}@liver:\n    cmd: python -m pipeline {name} liver\n    deps:\n{file}    outs:\n{file}"
WHOLE = "schema: '2.0'\nstages:\n" + "".join(
    STAGE.format(name=name, file=FILE.format(name=name)) for name in ("ingest", "validate", "train")
)


@pytest.mark.parametrize("kept", [*range(1, 60), *range(60, len(WHOLE), 7)])
def test_a_lock_cut_at_any_byte_keeps_its_whole_sections(tmp_path: Path, kept: int) -> None:
    lock, text = tmp_path / LOCK, WHOLE[:kept]
    lock.write_text(text)
    was_cut = cut_short(tmp_path)
    assert mend(tmp_path) is was_cut
    left = lock.read_text() if lock.is_file() else ""
    assert text.startswith(left)
    assert (left == text) is not was_cut
    if left:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(left))
    whole = text.count("@liver:\n") - 1
    assert left.count("@liver:\n") >= whole
    assert not cut_short(tmp_path)


def test_a_lock_cut_within_a_letter_keeps_its_whole_sections(tmp_path: Path) -> None:
    before, begun, _ = WHOLE.partition("  train@liver:\n")
    (tmp_path / LOCK).write_bytes(f"{before}{begun}    cmd: Übung".encode()[: -len("bung") - 1])
    assert cut_short(tmp_path)
    assert mend(tmp_path)
    assert (tmp_path / LOCK).read_text() == before


def test_what_is_broken_otherwise_is_left_alone(tmp_path: Path) -> None:
    text = WHOLE.replace("  validate@liver:\n", "<<<<<<< HEAD\n  validate@liver:\n=======\n>>>>>>> theirs\n")
    (tmp_path / LOCK).write_text(text)
    assert not mend(tmp_path)
    assert (tmp_path / LOCK).read_text() == text


def test_no_lock_is_no_broken_lock(tmp_path: Path) -> None:
    assert not mend(tmp_path)
    assert not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("kept", [0, len("schema: '2.0'\nstages:\n"), len(WHOLE) // 2, len(WHOLE) - 3])
def test_what_a_lock_lost_is_taken_from_its_copy(tmp_path: Path, kept: int) -> None:
    before = WHOLE.replace("size: 12", "size: 11")
    (tmp_path / LOCK).write_text(before)
    keep(tmp_path)
    (tmp_path / LOCK).write_text(WHOLE[:kept])
    assert mend(tmp_path)
    whole = max(WHOLE[:kept].count("@liver:\n") - 1, 0)
    at = [*(found.start() for found in SECTION.finditer(WHOLE)), len(WHOLE)][whole]
    assert (tmp_path / LOCK).read_text() == WHOLE[:at] + before[at:]


def test_of_a_lock_that_is_broken_no_copy_is_kept(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(WHOLE)
    keep(tmp_path)
    (tmp_path / LOCK).write_text(WHOLE[:-3])
    keep(tmp_path)
    assert mend(tmp_path)
    assert (tmp_path / LOCK).read_text() == WHOLE
