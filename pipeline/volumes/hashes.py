"""What was found out of files before: one that nobody touched costs a look at its status.

The index is a convenience, never a truth: what it says holds for one size, one time of change and one
inode, and a file changed within the last seconds is not remembered, because the next change might
leave all of them as they are. Files are known by their inode alone: a path may name a person.
"""

import math
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

from pipeline.atomic import sha256_file

SETTLED = 2.0
"""Seconds since its last change after which a file is remembered: coarser than any file system's clock."""


MOST = 1_000_000
"""Files that are remembered; the oldest are forgotten first."""
COLUMNS = "what TEXT, file TEXT, status TEXT, text TEXT, PRIMARY KEY (what, file)"
OLDEST = "DELETE FROM known WHERE rowid <= (SELECT max(rowid) FROM known) - ?"


class FileIndex:
    """A text for each of many files, kept in one small database.

    Args:
        path: of the database, made if need be; a damaged one is made anew.
        what: is told of the files: one index holds several facts of a file.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what

    def known(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The texts of those files that are as they were when they were remembered."""
        stored = self._load()
        if not stored:
            return {}
        found = {}
        for path in paths:
            file, now = _status(path)
            status, text = stored.get(file, ("", ""))
            if now and status == now:
                found[path] = text
        return found

    def remember(self, texts: Mapping[Path, str], since: float) -> None:
        """Keep these for the next time; a database that cannot be written loses nothing but time.

        Args:
            texts: by file.
            since: when the first of the files was looked at, in seconds since the epoch. What changed
                later is not remembered: the text may be of what the file was before.
        """
        found = [(*_status(path, since - SETTLED), text) for path, text in texts.items()]
        rows = [(self._what, file, status, text) for file, status, text in found if status]
        if not rows:
            return
        with suppress(sqlite3.Error, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=10)) as database, database:
                database.execute(f"CREATE TABLE IF NOT EXISTS known ({COLUMNS})")
                database.executemany("INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?)", rows)
                database.execute(
                    "DELETE FROM known WHERE rowid <= (SELECT max(rowid) FROM known) - ?", (MOST,)
                )

    def _load(self) -> dict[str, tuple[str, str]]:
        if not self._path.is_file():
            return {}
        try:
            with closing(sqlite3.connect(self._path, timeout=10)) as database:
                question = "SELECT file, status, text FROM known WHERE what = ?"
                rows = database.execute(question, (self._what,)).fetchall()
        except sqlite3.OperationalError:
            return {}
        except sqlite3.DatabaseError:
            with suppress(OSError):
                self._path.unlink()
            return {}
        return {file: (status, text) for file, status, text in rows}


def hash_all(paths: Iterable[Path], known: Mapping[Path, str]) -> dict[Path, str]:
    """The hash of every file, computed where it is not known."""
    return {path: known.get(path) or sha256_file(path) for path in paths}


def _status(path: Path, before: float = math.inf) -> tuple[str, str]:
    """A file's inode, and what changes whenever the file does; that is empty where it changed too late."""
    try:
        status = os.stat(path)
    except OSError:
        return "", ""
    if status.st_ctime >= before:
        return "", ""
    return str(status.st_ino), f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
