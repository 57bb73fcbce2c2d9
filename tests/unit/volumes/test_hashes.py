import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.volumes.hashes import FileIndex, hash_all

CONTENT = b"voxels"
SHA256 = sha256(CONTENT).hexdigest()
LATER = time.time() + 3600
"""When files are hashed that these tests wrote a moment ago."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that was hashed long after it was written, see `LATER`."""
    path = tmp_path / "raw" / "a.nii.gz"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "home" / "index" / "files.sqlite"


def _index(database: Path, what: str = "sha256") -> FileIndex:
    return FileIndex(database, what)


def _remembered(database: Path, file: Path) -> FileIndex:
    index = _index(database)
    index.remember({file: SHA256}, LATER)
    assert index.known([file]) == {file: SHA256}
    return _index(database)


def test_what_was_never_hashed_is_not_known(database: Path, file: Path) -> None:
    assert _index(database).known([file]) == {}
    assert not database.exists()


def test_an_untouched_file_is_known_to_the_next_run(database: Path, file: Path) -> None:
    assert _remembered(database, file).known([file, file.with_name("b")]) == {file: SHA256}


def test_a_path_means_the_same_file_from_wherever_it_is_given(
    database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _remembered(database, file)
    monkeypatch.chdir(file.parent)
    assert index.known([Path(file.name)]) == {Path(file.name): SHA256}


def _longer(path: Path) -> None:
    path.write_bytes(CONTENT + b"!")


def _in_place(path: Path) -> None:
    """As many bytes, and the time of the last change as it was."""
    before = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(path: Path) -> None:
    """By another file of the same size and the same time of change, as `rsync -t` would."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(CONTENT[::-1])
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def _touched(path: Path) -> None:
    path.touch()


def _removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [_longer, _in_place, _replaced, _touched, _removed])
def test_a_file_that_may_have_changed_is_not_known(
    database: Path, file: Path, change: Callable[[Path], None]
) -> None:
    index = _remembered(database, file)
    change(file)
    assert index.known([file]) == {}


def test_a_file_hashed_again_is_known_as_it_is_now(database: Path, file: Path) -> None:
    _remembered(database, file)
    _longer(file)
    index = _index(database)
    index.remember({file: "another"}, LATER)
    assert index.known([file]) == {file: "another"}


@pytest.mark.parametrize("since", [-3600.0, 0.0, 1.0])
def test_a_file_that_changed_since_or_just_before_is_not_remembered(
    database: Path, file: Path, since: float
) -> None:
    # The time of the last change can be set, that of the status cannot.
    os.utime(file, (0, 0))
    _index(database).remember({file: SHA256}, time.time() + since)
    assert _index(database).known([file]) == {}


def test_several_facts_of_a_file_do_not_mix(database: Path, file: Path) -> None:
    _remembered(database, file)
    rows = _index(database, "row")
    assert rows.known([file]) == {}
    rows.remember({file: "{}"}, LATER)
    assert rows.known([file]) == {file: "{}"}
    assert _index(database).known([file]) == {file: SHA256}


def test_a_file_that_went_away_is_not_remembered(database: Path, file: Path) -> None:
    gone = file.with_name("gone")
    _index(database).remember({gone: SHA256, file: SHA256}, LATER)
    gone.write_bytes(CONTENT)
    assert _index(database).known([gone, file]) == {file: SHA256}


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(84)])
def test_what_is_no_database_is_made_anew(database: Path, file: Path, content: bytes) -> None:
    database.parent.mkdir(parents=True)
    database.write_bytes(content)
    assert _index(database).known([file]) == {}
    _remembered(database, file)


@pytest.mark.parametrize("damage", ["cut in half", "cut short", "garbage in the middle"])
def test_a_damaged_database_is_made_anew(database: Path, file: Path, damage: str) -> None:
    index = _remembered(database, file)
    index.remember({file: SHA256}, LATER)
    whole = database.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "cut in half": whole[:middle],
        "cut short": whole[:1000],
        "garbage in the middle": whole[:middle] + b"\xff" * 4096 + whole[middle + 4096 :],
    }
    database.write_bytes(damaged[damage])
    assert _index(database).known([file]) == {}
    _remembered(database, file)


def test_a_database_that_another_process_holds_is_left_alone(
    database: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _remembered(database, file)
    connect = sqlite3.connect
    monkeypatch.setattr(
        "pipeline.volumes.hashes.sqlite3.connect", lambda path, timeout: connect(path, timeout=0.1)
    )
    holder = connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert index.known([file]) == {}
    index.remember({file: "another"}, LATER)
    holder.execute("COMMIT")
    holder.close()
    assert index.known([file]) == {file: SHA256}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(database: Path, file: Path) -> None:
    database.parent.mkdir(parents=True)
    database.parent.chmod(0o500)
    try:
        _index(database).remember({file: SHA256}, LATER)
        assert _index(database).known([file]) == {}
    finally:
        database.parent.chmod(0o700)


def test_a_place_where_no_database_can_be_costs_time_and_nothing_else(tmp_path: Path, file: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    index = _index(tmp_path / "home" / "index" / "files.sqlite")
    index.remember({file: SHA256}, LATER)
    assert index.known([file]) == {}


MANY = """
import sys
import time
from pathlib import Path
from pipeline.volumes import hashes

database, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for number in range(20):
    index = hashes.FileIndex(database, "sha256")
    path = folder / f"{name}_{number}"
    index.remember({path: f"hash of {path.name}"}, time.time() + 60)
    index.known(folder.iterdir())
"""


def test_runs_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path, database: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    names = ("x", "y", "z")
    paths = [folder / f"{name}_{number}" for name in names for number in range(20)]
    for path in paths:
        path.touch()
    commands = [[sys.executable, "-c", MANY, str(database), str(folder), name] for name in names]
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda command: subprocess.run(command, check=True, timeout=60), commands))
    assert len(done) == len(names)
    assert _index(database).known(paths) == {path: f"hash of {path.name}" for path in paths}


def test_only_files_whose_hash_is_not_known_are_read(file: Path) -> None:
    other = file.with_name("b")
    assert hash_all([file, other], {other: "known"}) == {file: SHA256, other: "known"}


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        hash_all([tmp_path / "gone"], {})
    assert missing.value.filename == str(tmp_path / "gone")
