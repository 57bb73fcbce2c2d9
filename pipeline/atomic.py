"""Files that are either whole or absent, locks on them, and hashes of what they hold."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, MissingError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, a quota, a limit on the size of a file."""
UNWRITABLE = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS)
"""No room or no permission."""
BROKEN = (errno.EIO, errno.ESTALE)
"""A disk that fails, a share whose server was changed."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it into place.

    A reader sees the old file or the whole new one, whenever the writer is killed. The temporary
    name starts with a dot and ends with the target's suffix, because some writers choose the
    format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `path.suffix`: `.nii.gz` must stay whole.
    temporary = path.parent / f".{os.getpid()}.partial.{path.name}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # Some writers make files that only their owner may read; another user may run the next stage.
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        # A write that fails is told without a file, and which disk that is only the file tells.
        unnamed = error.errno in (*FULL, *BROKEN) and error.filename is None
        if unnamed or str(error.filename) == str(temporary):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def output_path(path: Path) -> Iterator[Path]:
    """As `atomic_path`, for a file that goes where a person said.

    Raises:
        MissingError: there is no room on the disk, no permission, or something else in its place.
    """
    with _told_of(path), atomic_path(path) as temporary:
        yield temporary


def output_folder(folder: Path) -> None:
    """Make a folder that a person said, unless it is there, and see that files can be written into it.

    Raises:
        MissingError: they cannot.
    """
    with _told_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MissingError(
            f"{path} cannot be written ({error.strerror or type(error).__name__})",
            "make room on the disk, see that the folder may be written to, or name another place",
        ) from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success flush it to disk and rename it into place.

    What a killed process left of the same folder is removed first.

    Raises:
        DataError: at `path` is something else than an empty folder.
        MissingError: there is no room on the disk, or no permission.
    """
    with _told_of(path):
        _check_new(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path)
        begins = f".{path.name}.unfinished.{os.getpid()}."
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=begins) as scratch:
            # One below: a temporary folder may only be read by its owner.
            folder = Path(scratch) / path.name
            folder.mkdir()
            yield folder
            for inside in [*folder.rglob("*"), folder]:
                _sync(inside)
            # Again: minutes later, somebody else may have written it.
            _check_new(path)
            # An empty folder that stands there is replaced.
            os.replace(folder, path)
        _sync(path.parent)


def _remove_unfinished(path: Path) -> None:
    """Remove what killed makers of the folder `path` left beside it, but not what one still fills."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.unfinished.*.*"):
        if _is_gone(leftover.name.rsplit(".", 2)[1]):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_gone(writer: str) -> bool:
    """Whether `writer`, of a temporary name, is the number of a process that has ended."""
    import psutil

    return writer.isdecimal() and not psutil.pid_exists(int(writer))


def _check_new(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DataError(f"{path} is there already", "remove it, or name another folder")


@contextmanager
def locked(path: Path, what: str) -> Iterator[int]:
    """Hold the lock file `path`; the system frees it when the holder ends, however it ends.

    Args:
        path: made if need be; it stays.
        what: a person reads is being waited for.

    Yields:
        The descriptor that holds the lock.

    Raises:
        MissingError: the file system that it is on has no locks.
    """
    from pipeline.progress import console

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"another process is busy with {what}; waiting for it", markup=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise MissingError(
                f"{path} cannot be locked ({error.strerror})",
                "mount its file system with locks (Lustre: -o flock), or move it to one that has them",
            ) from None
        yield file.fileno()


def _sync(path: Path) -> None:
    """Make a file's bytes, or a rename in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Remove what a killed writer left behind in `folder`."""
    for leftover in folder.glob(".*.partial.*"):
        leftover.unlink(missing_ok=True)


def remove_partial_of(*paths: Path) -> None:
    """Remove what killed writers of these files left beside them, but not what one still writes."""
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name)
    for folder, own in names.items():
        for leftover in folder.glob(".*.partial.*"):
            writer, _, name = leftover.name[1:].partition(".partial.")
            if name in own and _is_gone(writer):
                leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON with sorted keys, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """SHA-256 of JSON-like `content`, independent of key order, as hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sha256_code(*modules: str) -> str:
    """SHA-256 of the source of files and folders of this package, given relative to it.

    What is reused must have been made by the code that would make it again; hashing the source
    says so without anybody remembering to raise a version number.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for module in modules:
        target = package / module
        files = sorted(target.rglob("*.py")) if target.is_dir() else [target]
        for file in files:
            digest.update(str(file.relative_to(package)).encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()
