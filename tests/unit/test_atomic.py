import errno
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline.atomic
from pipeline.atomic import (
    atomic_path,
    locked,
    new_folder,
    read_json,
    remove_partial,
    remove_partial_of,
    sha256_code,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from pipeline.errors import DataError, MissingError

KILLED_HALFWAY = """
import os, signal, sys
from pathlib import Path
from pipeline.atomic import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    os.kill(os.getpid(), signal.SIGKILL)
"""
WRITING_FOR_EVER = """
import sys
from pathlib import Path
from pipeline.atomic import write_text

write_text(Path(sys.argv[1]), "a" * 3_000_000)
print("go", flush=True)
while True:
    for letter in "ba":
        write_text(Path(sys.argv[1]), letter * 3_000_000)
"""


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _fail_while_writing(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError


def test_a_writer_killed_halfway_leaves_the_old_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    target.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, target], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "volume.b2nd"
    subprocess.run([sys.executable, "-c", KILLED_HALFWAY, target], check=False)
    for kept in (".gitignore", "my.partial.json", "case.b2nd"):
        (tmp_path / kept).touch()
    assert len(_names(tmp_path)) == 4
    remove_partial(tmp_path)
    assert _names(tmp_path) == [".gitignore", "case.b2nd", "my.partial.json"]


def test_what_killed_writers_of_one_file_left_is_removed_and_not_what_others_write(tmp_path: Path) -> None:
    target, other = tmp_path / "table.json", tmp_path / "other.json"
    for path in (target, other):
        subprocess.run([sys.executable, "-c", KILLED_HALFWAY, path], check=False)
    with atomic_path(target) as written:
        written.write_text("new")
        remove_partial_of(target)
        assert written.exists()
    (left,) = (name for name in _names(tmp_path) if name != "table.json")
    assert left.endswith(".partial.other.json")


def test_a_reader_sees_a_whole_file_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    for attempt in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITING_FOR_EVER, target], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.05 + random.Random(attempt).random() * 0.1)
            writer.kill()
        content = target.read_text()
        assert content in ("a" * 3_000_000, "b" * 3_000_000)


def test_an_exception_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _fail_while_writing(target)
    assert _names(tmp_path) == ["file.txt"]
    assert target.read_text() == "old"


def test_the_temporary_is_hidden_beside_the_target_and_keeps_its_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "very" / "new" / "scan.nii.gz") as temporary:
        assert temporary.parent == tmp_path / "very" / "new"
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        temporary.touch()
    assert _names(tmp_path / "very" / "new") == ["scan.nii.gz"]


def test_another_user_may_read_what_a_careful_user_wrote(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "file.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o644


def test_a_link_to_a_cache_is_replaced_and_the_cache_left_alone(tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("old")
    (tmp_path / "file.txt").symlink_to(cached)
    write_text(tmp_path / "file.txt", "new")
    assert (cached.read_text(), (tmp_path / "file.txt").read_text()) == ("old", "new")


def test_json_comes_back_and_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": [1, 2.5, None], "a": "ü"})
    write_json(tmp_path / "two.json", {"a": "ü", "b": [1, 2.5, None]})
    assert read_json(tmp_path / "one.json") == {"a": "ü", "b": [1, 2.5, None]}
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"dice": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        sha256_json({"dice": float("nan")})
    assert read_json(tmp_path / "a.json") == 1


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_hash_of_json_depends_on_content_not_on_order() -> None:
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1, "b": 2}) != sha256_json({"a": 2, "b": 1})
    assert sha256_json([1, 2]) != sha256_json([2, 1])


@pytest.fixture
def copied_package(tmp_path: Path) -> tuple[Path, Callable[[str], str]]:
    """A package of this project's code that a test may change, and its `sha256_code`."""
    package = tmp_path / "package"
    shutil.copytree(Path(pipeline.atomic.__file__).parent / "sampling", package / "sampling")
    shutil.copy(pipeline.atomic.__file__, package / "atomic.py")
    spec = importlib.util.spec_from_file_location("copied_atomic", package / "atomic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return package, module.sha256_code


def test_hash_of_code_changes_with_each_of_its_sources(
    copied_package: tuple[Path, Callable[[str], str]],
) -> None:
    package, code_hash = copied_package
    seen = [code_hash("sampling")]
    (package / "sampling" / "boxes.py").write_text("changed = True\n")
    seen.append(code_hash("sampling"))
    (package / "sampling" / "boxes.py").rename(package / "sampling" / "cubes.py")
    seen.append(code_hash("sampling"))
    (package / "sampling" / "deeper").mkdir()
    (package / "sampling" / "deeper" / "new.py").touch()
    seen.append(code_hash("sampling"))
    assert len(set(seen)) == 4


def test_hash_of_code_looks_at_nothing_but_its_sources(
    copied_package: tuple[Path, Callable[[str], str]],
) -> None:
    package, code_hash = copied_package
    before = code_hash("sampling")
    (package / "atomic.py").write_text("")
    (package / "sampling" / "boxes.pyc").write_bytes(b"compiled")
    assert code_hash("sampling") == before


def test_hash_of_code_is_the_same_in_whatever_order_a_disk_lists_the_files(
    copied_package: tuple[Path, Callable[[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, code_hash = copied_package
    before, listed = code_hash("sampling"), Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda folder, pattern: reversed(list(listed(folder, pattern))))
    assert code_hash("sampling") == before


def test_hash_of_code_takes_single_files() -> None:
    assert sha256_code("atomic.py") != sha256_code("errors.py")
    assert sha256_code("atomic.py", "errors.py") == sha256_code("atomic.py", "errors.py")


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was brought to the disk, by its name, and when something was renamed."""
    done = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        done.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return done


def test_a_power_cut_finds_the_bytes_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, order):
    with atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    assert order == [str(temporary), "renamed", str(tmp_path)]
    order.clear()
    with new_folder(tmp_path / "there") as folder:
        (folder / "below").mkdir()
        (folder / "below" / "file").touch()
    inside = [folder, folder / "below", folder / "below" / "file"]
    assert sorted(order[:3]) == [str(path) for path in inside]
    assert order[3:] == ["renamed", str(tmp_path)]


def test_a_night_of_writing_leaves_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        write_text(tmp_path / f"{number}.txt", "text")
    assert len(os.listdir("/proc/self/fd")) < before + 50


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ((errno.ENOSPC, "No space left on device"), "table.csv"),
        ((errno.ENOSPC, "No space left on device", "copied.csv"), "copied.csv"),
        ((errno.EINVAL, "Invalid argument"), None),
    ],
)
def test_a_full_disk_is_told_with_the_file_that_has_no_room(tmp_path, monkeypatch, fault, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=fault[1]) as raised, atomic_path(Path("table.csv")):
        raise OSError(*fault)
    assert raised.value.filename == named


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_is_told_with_the_file_that_was_written(tmp_path, number):
    target = tmp_path / "table.csv"
    with pytest.raises(OSError, match="of the disk") as raised, atomic_path(target):
        raise OSError(number, "of the disk")
    assert raised.value.filename == str(target)


def test_a_file_that_cannot_be_written_is_told_by_its_own_name(tmp_path):
    target = tmp_path / "table.csv"
    with pytest.raises(PermissionError) as raised, atomic_path(target) as temporary:
        raise PermissionError(errno.EACCES, "Permission denied", str(temporary))
    assert raised.value.filename == str(target)


def test_a_new_folder_is_whole_or_absent_and_replaces_only_an_empty_one(tmp_path):
    target = tmp_path / "new" / "parent" / "there"

    def fill(fault=None):
        with new_folder(target) as folder:
            # Of the same disk, or the rename could not be one.
            assert target.parent in folder.parents
            assert all(path.name.startswith(".") for path in target.parent.iterdir() if path != target)
            (folder / "below").mkdir()
            (folder / "below" / "file").write_text("whole")
            assert not target.exists() or not any(target.iterdir())
            if fault:
                raise fault

    # A copy that finds the disk full names the file that it copies.
    with pytest.raises(MissingError, match=rf"{target} cannot be written \(No space left on device\)"):
        fill(OSError(errno.ENOSPC, "No space left on device", "weights"))
    assert list(target.parent.iterdir()) == []
    target.mkdir()
    fill()
    assert (target / "below" / "file").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(MissingError, match="cannot be written"):
        new_folder(target / "below" / "file" / "in").__enter__()
    with pytest.raises(DataError, match="is there already"):
        fill()
    with pytest.raises(DataError, match="is there already"):
        new_folder(target / "below" / "file").__enter__()


def test_what_a_killed_maker_of_a_folder_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    target = tmp_path / "there"
    killed = KILLED_HALFWAY.replace("atomic_path", "new_folder").replace(
        "temporary.write_text", "(temporary / 'file').write_text"
    )
    subprocess.run([sys.executable, "-c", killed, target], check=False)
    assert len(_names(tmp_path)) == 1
    (tmp_path / ".there.2024.old").mkdir()
    with new_folder(target), new_folder(tmp_path / "other"):
        assert len(_names(tmp_path)) == 3
    assert _names(tmp_path) == [".there.2024.old", "other", "there"]


def test_a_new_folder_that_somebody_else_has_written_meanwhile_stays_theirs(tmp_path):
    target = tmp_path / "there"

    def fill(text, meanwhile=lambda: None):
        with new_folder(target) as folder:
            (folder / "file").write_text(text)
            meanwhile()

    with pytest.raises(DataError, match="is there already"):
        fill("later", meanwhile=lambda: fill("first"))
    assert (target / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_system_without_locks_is_told_in_a_sentence(tmp_path, monkeypatch):
    def refuse(*_given):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(pipeline.atomic.fcntl, "flock", refuse)
    told = r"registry\.lock cannot be locked \(Function not implemented\): mount its file system with locks"
    with pytest.raises(MissingError, match=told), locked(tmp_path / "registry.lock", "the registry"):
        pass
