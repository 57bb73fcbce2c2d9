"""The tables of BIDS that give the values in label maps their names: `*dseg.tsv`."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError
from pipeline.volumes.case_files import Problem
from pipeline.volumes.layouts.volume_files import stem


class LabelTables:
    """What the tables of a source say together.

    Args:
        source: the folder that paths are relative to.
    """

    def __init__(self, source: Path) -> None:
        self.labels: dict[str, int] = {}
        self.paths: list[Path] = []
        self._source = source
        self._read: dict[Path, dict[str, int]] = {}

    def learn(self, maps: Sequence[Path]) -> Problem | None:
        """Read the tables of some label maps; the problem, if one is broken or contradicts another."""
        for table in (table for path in maps for table in self._tables_of(path)):
            try:
                labels = self._labels_of(table)
            except DataError as error:
                return Problem(error.reason, error.remedy)
            clash = self._clash(labels)
            if clash is not None:
                return Problem(f"{table.name} {clash}", "use one value for a label in all label maps")
            self.labels |= labels
        return None

    def _clash(self, labels: dict[str, int]) -> str | None:
        """Where a name has another value, or a value another name, than in the tables before."""
        for name, value in labels.items():
            for known, number in self.labels.items():
                if (known == name) != (number == value):
                    return f"calls {value} '{name[:40]}', elsewhere {number} is '{known[:40]}'"
        return None

    def _tables_of(self, path: Path) -> list[Path]:
        """The table of the label map's own name, else those at the top of its derivative."""
        own = path.with_name(f"{stem(path)}.tsv")
        if (self._source / own).is_file():
            return [own]
        top = Path(*path.parts[:2])
        return [table.relative_to(self._source) for table in sorted((self._source / top).glob("*dseg.tsv"))]

    def _labels_of(self, table: Path) -> dict[str, int]:
        """Names and values, the background left out.

        Raises:
            DataError: it has no such columns, or is no table.
        """
        if table not in self._read:
            self.paths.append(table)
            try:
                with open(self._source / table, encoding="utf-8-sig", newline="") as file:
                    rows = list(csv.DictReader(file, delimiter="\t"))
                pairs = [(row["name"].strip(), int(row["index"])) for row in rows]
            except (KeyError, ValueError, AttributeError, TypeError, csv.Error, OSError):
                raise DataError(
                    f"{table.name} is no table with the columns index (a number) and name",
                    "mend or remove it",
                ) from None
            self._read[table] = {name: value for name, value in pairs if value > 0}
        return self._read[table]
