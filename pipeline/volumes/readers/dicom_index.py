"""Headers kept on disk: a look at thousands of files that did not change opens none of them.

It is a cache and nothing else: where it cannot be used the headers are read again.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType

Mark = tuple[str, str]
"""Of a file: the keyed hash of its path, and what changes when its content does."""
WAIT = 30.0
"""Seconds for another process to finish writing."""
AT_ONCE = 500
"""Files asked for in one query; SQLite allows about a thousand."""
ELSEWHERE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
)
"""Errors that are no fault of the file: others use it, or nobody may write here."""
TABLE = "CREATE TABLE IF NOT EXISTS headers (file TEXT PRIMARY KEY, stamp TEXT, header TEXT) WITHOUT ROWID"


class HeaderIndex:
    """The index in a file; made anew if that is damaged. To be used as a context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = self._open()

    def __enter__(self) -> "HeaderIndex":
        """The index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        if self._database is not None:
            self._database.close()

    def get(self, marks: Iterable[Mark]) -> dict[Mark, str]:
        """What was kept for those of these files that have not changed since."""
        if self._database is None:
            return {}
        wanted = iter(marks)
        found: dict[Mark, str] = {}
        try:
            while some := list(islice(wanted, AT_ONCE)):
                query = f"SELECT file, stamp, header FROM headers WHERE file IN ({','.join('?' * len(some))})"
                rows = self._database.execute(query, [file for file, _ in some])
                found |= {(file, stamp): header for file, stamp, header in rows}
        except sqlite3.DatabaseError as error:
            self._after(error)
            return {}
        return found

    def put(self, headers: Mapping[Mark, str]) -> None:
        """Keep headers, instead of what was kept for these files before."""
        if self._database is None or not headers:
            return
        rows = [(file, stamp, header) for (file, stamp), header in headers.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            self._after(error)

    def _after(self, error: sqlite3.DatabaseError) -> None:
        """Go without the index, or start anew if it is damaged."""
        if self._database is not None:
            self._database.close()
        self._database = None
        if _damaged(error):
            _remove(self._path)
            self._database = self._open()

    def _open(self) -> sqlite3.Connection | None:
        for _ in range(2):
            database = None
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                database = sqlite3.connect(self._path, timeout=WAIT)
                database.execute(TABLE)
                return database
            except OSError:
                return None
            except sqlite3.DatabaseError as error:
                if database is not None:
                    database.close()
                if not _damaged(error):
                    return None
                _remove(self._path)
        return None


def _damaged(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode & 0xFF not in ELSEWHERE


def _remove(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}-journal")):
        with suppress(OSError):
            file.unlink(missing_ok=True)
