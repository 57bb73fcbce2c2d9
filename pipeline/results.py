"""What came out, organ by organ: Dice on the test cases, the report, the champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipeline.atomic import read_json
from pipeline.errors import DataError, MissingError
from pipeline.params import read_params
from pipeline.progress import console
from pipeline.registry.connection import is_present
from pipeline.workspace import home, stage_files


@dataclass(frozen=True)
class Result:
    """Of one organ; what has not been computed yet is None."""

    organ: str
    dice: dict[str, float] | None
    """Mean over the test cases, by label, and `mean` over the labels."""
    region_dice: dict[str, float] | None
    """The same of labels that are judged as one; None where there are no such."""
    cases: int | None
    report: str | None
    decision: str | None
    why: str | None
    """The page about the decision."""
    champion: int | None
    """Version in the registry."""


def collect(root: Path) -> list[Result]:
    """The results of every organ of `params.yaml`, as the files of the last run and the registry tell them.

    Raises:
        DataError: one of the files is no JSON.
    """
    organs = list(read_params(root / "params.yaml")["organs"])
    champions = _champions(root, organs)
    return [_result(root, organ, champions) for organ in organs]


def _result(root: Path, organ: str, champions: Mapping[str, int | None]) -> Result:
    evaluated, registered = stage_files(root, "evaluate", organ), stage_files(root, "register", organ)
    metrics = _read(root / evaluated["metrics"])
    decision = _read(root / registered["registry"])
    report, why = evaluated["report"], registered["decision"]
    return Result(
        organ=organ,
        dice=metrics.get("dice"),
        region_dice=metrics.get("region_dice"),
        cases=metrics.get("cases"),
        report=str(report) if (root / report).is_file() else None,
        decision=decision.get("decision"),
        why=str(why) if (root / why).is_file() else None,
        # The file of the last decision knows of no rollback, but needs no registry.
        champion=champions.get(organ, decision.get("champion_version")),
    )


def _champions(root: Path, organs: Sequence[str]) -> dict[str, int | None]:
    """The version in use of each organ; of none where there is no registry, or none that answers."""
    if not is_present(home(root.absolute())):
        return {}
    # MLflow is loaded where a registry is asked.
    from pipeline.registry.models import ModelRegistry

    registry = ModelRegistry(root)
    try:
        return {organ: registry.champion_version(organ) for organ in organs}
    except MissingError as error:
        told = f"{', '.join(organs)}: the champion is that of the last decision"
        console.print(f"{error.reason}; {told}", markup=False)
        return {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path)) if path.is_file() else {}
    except (ValueError, TypeError):
        raise DataError(f"{path} is no JSON", "settle the merge in it, or run its stage again") from None


def as_table(results: list[Result]) -> Table:
    """For people."""
    table = Table("organ", "label", "Dice", title="Dice on the held-out test cases", title_justify="left")
    table.columns[1].overflow = "fold"
    table.columns[2].justify = "right"
    for result in results:
        if result.dice is None:
            table.add_row(result.organ, f"nothing yet: dvc repro register@{result.organ}", "")
            continue
        for label, value in result.dice.items():
            if label != "mean":
                table.add_row(result.organ, escape(label), f"{value:.3f}")
        mean = f"[bold]mean of {result.cases} cases[/]"
        table.add_row(result.organ, mean, f"[bold]{result.dice['mean']:.3f}[/]")
        for region, value in (result.region_dice or {}).items():
            table.add_row(result.organ, f"{escape(region)} (region)", f"{value:.3f}")
        table.add_section()
    return table


def sentences(result: Result) -> list[str]:
    """Where the report is, and who the champion is."""
    said = [f"{result.organ}: report in {result.report}"] if result.report else []
    if result.champion is not None:
        said.append(f"{result.organ}: version {result.champion} is the registered champion")
    elif result.decision is not None:
        said.append(f"{result.organ}: there is no champion")
    if result.why:
        said.append(f"{result.organ}: why, challenger beside champion: {result.why}")
    return said
