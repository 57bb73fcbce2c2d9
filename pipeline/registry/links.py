"""What a walk from a version to its raw cases finds: its links, for people and for machines."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from pipeline.errors import DataError, MissingError
from pipeline.registry.raw_cases import RawFiles

State = Literal["whole", "missing", "differs"]
CODES: dict[State, int] = {
    "whole": 0,
    "missing": MissingError.exit_code,
    "differs": DataError.exit_code,
}
SHOWN = ("torch", "numpy", "monai")
"""Packages that a person is shown; JSON has all that were recorded."""


@dataclass(frozen=True)
class Link:
    """One step of the way."""

    what: str
    state: State
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Lineage:
    """The whole way of a version."""

    organ: str
    version: int
    champion: bool
    commit: str | None
    """Whose dvc.lock names what the version was made from; None if there is none."""
    links: list[Link]
    known: dict[str, Any]
    """What was recorded at the registration."""
    commands: list[str]
    """That bring the state back."""
    raw_files: dict[str, RawFiles] = field(default_factory=dict)
    """By case, if it was asked for."""

    @property
    def broken(self) -> list[Link]:
        """The links that do not hold."""
        return [link for link in self.links if link.state != "whole"]

    @property
    def exit_code(self) -> int:
        """Of the first link that does not hold; 0 if all do."""
        return CODES[self.broken[0].state] if self.broken else 0

    @property
    def sentence(self) -> str:
        """Whether the version can be traced to its cases, and what is in the way."""
        name = f"{self.organ}: version {self.version}"
        if not self.broken:
            return f"{name} is traced to its {len(self.known['cases'])} raw cases"
        first = self.broken[0]
        told = f"{name} cannot be traced to its raw cases: {first.said}"
        return f"{told}: {first.remedy}" if first.remedy else told

    def as_json(self, cases: bool) -> dict[str, Any]:
        """For machines; with the cases only if asked."""
        known = {key: value for key, value in self.known.items() if key != "cases"}
        counted = [
            case | (asdict(self.raw_files[case["case"]]) if case["case"] in self.raw_files else {})
            for case in self.known["cases"]
        ]
        return {
            "organ": self.organ,
            "version": self.version,
            "champion": self.champion,
            "whole": not self.broken,
            "commit": self.commit,
            "links": [asdict(link) for link in self.links],
            "recorded": known,
            "commands": self.commands,
            **({"cases": counted} if cases else {}),
        }


def as_table(lineage: Lineage) -> Table:
    """The links, for people."""
    role = ", the champion" if lineage.champion else ""
    table = Table(
        "link", "", "", title=f"{lineage.organ}, version {lineage.version}{role}", title_justify="left"
    )
    for link in lineage.links:
        colour = "green" if link.state == "whole" else "red"
        table.add_row(link.what, f"[{colour}]{link.state}[/]", escape(link.said))
    computed = lineage.known["environment"]
    packages = ", ".join(f"{name} {computed['packages'].get(name, '?')}" for name in SHOWN)
    image = f", image {computed['image']}" if computed["image"] else ""
    told = f"Python {computed['python']}, {packages}, {computed['device']}, {computed['platform']}{image}"
    table.add_row("environment", "", escape(told), end_section=True)
    return table


def cases_table(lineage: Lineage) -> Table:
    """The cases, for people."""
    table = Table("case", "split", "fold", "key", "raw files", "not in the cache")
    table.columns[0].overflow = "fold"
    for case in lineage.known["cases"]:
        raw = lineage.raw_files.get(case["case"])
        fold = "" if case["fold"] is None else str(case["fold"])
        counts = (str(raw.files), str(raw.missing)) if raw else ("?", "?")
        table.add_row(escape(case["case"]), case["split"], fold, case["key"][:12], *counts)
    return table
