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
        if not self._path.is_file():
            return {}
        try:
            rows: dict[str, Row] = read_json(self._path)
            return {case: row for case, row in rows.items() if row["key"] and row["key"] == keys.get(case)}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}

    def keep(self, rows: Iterable[Row]) -> None:
        """Remember these rows and no others."""
        write_json(self._path, {row["case"]: row for row in rows if row["key"]})
