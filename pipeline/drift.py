"""The current data of an organ beside those its champion was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from pipeline.atomic import read_json, write_text
from pipeline.errors import MissingError
from pipeline.params import load_organ
from pipeline.registry.models import ModelRegistry
from pipeline.validation.drift import FINGERPRINT, Drift, drift, fingerprint, verdict
from pipeline.workspace import stage_files

PAGE = "drift.html"


@dataclass(frozen=True)
class Comparison:
    """What came of it."""

    organ: str
    champion: int | None
    rows: list[Drift]
    page: Path | None
    """Relative to the project; None where there is nothing to compare with."""
    sentence: str

    def record(self) -> dict[str, Any]:
        """As JSON-like content."""
        return {
            "organ": self.organ,
            "champion": self.champion,
            "drift": verdict(self.rows) if self.page else None,
            "rows": [row.record() for row in self.rows],
            "page": str(self.page) if self.page else None,
            "sentence": self.sentence,
        }

    def sentences(self) -> list[str]:
        """What came of it, and where the page is."""
        return [self.sentence, *([f"{self.organ}: {self.page} shows it"] if self.page else [])]


def as_table(comparison: Comparison) -> Table:
    """For people."""
    table = Table("subject", "distance", "drift", "in words", title=f"{comparison.organ}: now and then")
    table.columns[1].justify = "right"
    for row in comparison.rows:
        colour = {"none": "green", "some": "yellow", "strong": "red"}[row.verdict]
        verdict_cell = f"[{colour}]{row.verdict}[/]"
        table.add_row(escape(row.what), f"{row.distance:.2f}", verdict_cell, escape(row.sentence))
    return table


def compare(root: Path, organ: str) -> Comparison:
    """Compare the accepted cases of `organ` with those of its champion, and write the page about it.

    Raises:
        MissingError: no cases are accepted yet, or the registry cannot be used.
        ParamsError: `params.yaml` has no such organ.
    """
    files = stage_files(root, "validate", organ)
    accepted, plans = (root / files[role] for role in ("accepted", "plans"))
    if not (accepted.is_file() and plans.is_file()):
        load_organ(root / "params.yaml", organ)
        absent = files["accepted"] if plans.is_file() else files["plans"]
        raise MissingError(f"{organ}: {absent} is not there", f"run dvc repro validate@{organ}")
    champion = ModelRegistry(root).champion(organ)
    if champion is None:
        return Comparison(organ, None, [], None, f"{organ} has no champion yet: nothing to compare with.")
    then = read_json(champion.folder / "config.json").get(FINGERPRINT)
    if not then:
        told = (
            f"{organ}: version {champion.version} does not say what data it was trained on; a new one will."
        )
        return Comparison(organ, champion.version, [], None, told)
    from pipeline.reports.drift import WORDS, drift_page

    now = fingerprint(pd.read_parquet(accepted), read_json(plans))
    rows = drift(now, then)
    page = Path("reports") / organ / PAGE
    write_text(root / page, drift_page(organ, rows, now, then, champion.version))
    return Comparison(organ, champion.version, rows, page, f"{organ}: {WORDS[verdict(rows)]}")
