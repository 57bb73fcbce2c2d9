"""Cases that were refused, remembered beside the volumes: they are not read again until something changes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.atomic import read_json, write_json

Row = dict[str, Any]


class Quarantine:
    """The rows of refused cases, in one file of the folder of volumes.

    Args:
        volumes: the folder.
    """

    NAME = "quarantined.json"

    def __init__(self, volumes: Path) -> None:
        self._path = volumes / self.NAME

    def known(self, keys: Mapping[str, str]) -> dict[str, Row]:
        """The rows whose case, by its key, is as it was when it was refused."""
        try:
            rows = self._rows().items()
            return {case: row for case, row in rows if row["key"] and row["key"] == keys.get(case)}
        except (KeyError, TypeError, AttributeError):
            return {}

    def keep(self, rows: Iterable[Row]) -> None:
        """Remember these rows and no others; the file stays untouched where nothing is new."""
        kept = {row["case"]: row for row in rows if row["key"]}
        if kept != self._rows() or not self._path.is_file():
            write_json(self._path, kept)

    def _rows(self) -> dict[str, Row]:
        try:
            rows: dict[str, Row] = read_json(self._path) if self._path.is_file() else {}
        except ValueError:
            return {}
        return rows
