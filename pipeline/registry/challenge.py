"""What a decision about a challenger is made from, but for the champion."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.atomic import read_json, sha256_code, sha256_json
from pipeline.errors import DataError, MissingError
from pipeline.metrics.bootstrap import patients_of
from pipeline.metrics.case_table import JUDGED, read_cases, subject_of
from pipeline.params import RegisterParams

CODE = (
    "stages/register.py",
    "registry/challenge.py",
    "registry/gate.py",
    "registry/comparison.py",
    "registry/learned.py",
    "registry/data_conditions.py",
    "inference",
    "metrics",
)
"""What decides."""


@dataclass(frozen=True)
class Challenge:
    """What the decision is made from, but for the champion."""

    organ: str
    params: RegisterParams
    raw: Path
    models: Path
    """The challenger's folder."""
    table: pd.DataFrame
    """Of accepted cases."""
    figures: pd.DataFrame
    """The challenger's: case, label, dice; NaN where undefined."""
    regions: pd.DataFrame
    """As `figures`, of labels that are judged as one; they are told, and decide nothing."""
    united: Mapping[str, Sequence[str]]
    """The labels of each region."""
    evidence: list[Path]
    config: dict[str, Any]
    """The challenger's."""
    commit: str | None
    """That is checked out; None: not known."""
    inputs: str
    """Hash of all of this; the challenger's files have their own, `Version.content`."""

    @property
    def test(self) -> pd.DataFrame:
        """Test rows of the accepted table."""
        return self.table[self.table["split"] == "test"].reset_index(drop=True)

    @property
    def patients(self) -> dict[str, str]:
        """Whose each case is."""
        return patients_of(self.table)

    def compared(self, learned: Collection[str]) -> pd.DataFrame:
        """The test rows that challenger and champion are compared on."""
        return self.test[~self.test["case"].isin(list(learned))]


def dice_in(cases: Path, test: pd.DataFrame) -> pd.DataFrame:
    """Case, label (or region) and Dice of a model; `cases` has to be about the rows of `test`."""
    figures = read_cases(cases)[["case", "label", "dice"]]
    if set(figures["case"]) != set(test["case"]):
        raise DataError(
            f"{cases} is about {figures['case'].nunique()} cases, not about the {len(test)} test cases there "
            "are now",
            "run the stage 'evaluate' again",
        )
    return figures


def check_judged(organ: str, measured: dict[str, Any], models: Path, test: pd.DataFrame) -> None:
    """Refuse figures of another model: a stage that is run by itself does not run those before it.

    Old metrics do not say what they are about.
    """
    if measured.get(JUDGED) not in (None, subject_of(models, test)):
        raise DataError(
            f"{organ}: the metrics are of another model, or of other test cases, than there are now",
            f"run dvc repro evaluate@{organ}, and then register",
        )


def inputs_of(table: pd.DataFrame, figures: pd.DataFrame, params: RegisterParams) -> str:
    """Hash of what a decision about `figures` (case, label, dice) is made from, but for the champion."""
    test = table[table["split"] == "test"]
    return sha256_json(
        {
            "test": test[["case", "key"]].astype(str).to_numpy().tolist(),
            "patients": patients_of(table),
            "figures": figures.to_csv(index=False),
            "params": params.model_dump(mode="json"),
            "code": sha256_code(*CODE),
        }
    )


def config_of(model: Path) -> dict[str, Any]:
    """The configuration of the model in a folder."""
    if not (model / "config.json").is_file():
        raise MissingError(f"{model} holds no model (no config.json)", "run the stage 'train'")
    config: dict[str, Any] = read_json(model / "config.json")
    return config
