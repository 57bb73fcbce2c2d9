"""What people are told of a decision: the card of the model, the page, and the line of the stage."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import MissingError
from pipeline.metrics.subgroups import subgroups
from pipeline.progress import console
from pipeline.registry.card import NAME as CARD
from pipeline.registry.card import model_card
from pipeline.registry.challenge import Challenge, dice_in
from pipeline.registry.comparison import paired_dice
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import AWAITING, PROMOTED
from pipeline.reports.decision import NAME as PAGE
from pipeline.reports.decision import decision_page

CHAMPION_CASES = "champion_cases.csv"
"""Evidence: the champion's figures on the same cases."""


def card_and_page(
    outcome: dict[str, Any], challenge: Challenge, theirs: pd.DataFrame | None, folder: Path
) -> list[Path]:
    """Card and page about `outcome`, written to `folder`."""
    groups = subgroups(challenge.test)
    card = model_card(
        challenge.config,
        outcome,
        challenge.figures,
        groups,
        challenge.commit,
        challenge.patients,
        challenge.regions,
        challenge.united,
    )
    for name, text in ((CARD, card), (PAGE, page_of(outcome, challenge, theirs))):
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / CARD, folder / PAGE]


def page_of(outcome: dict[str, Any], challenge: Challenge, theirs: pd.DataFrame | None) -> str:
    """The page about `outcome`; `theirs` are the champion's figures that it was made with."""
    return decision_page(outcome, None if theirs is None else paired_dice(challenge.figures, theirs))


def their_figures(
    outcome: dict[str, Any], challenge: Challenge, models_known: ModelRegistry
) -> pd.DataFrame | None:
    """The champion's figures that `outcome` was made with, from the evidence; None where it was without.

    None as well where somebody deleted them: the decision stands, and a page without single cases is
    better than a run that fails every night.
    """
    if "overall" not in outcome["evidence"]:
        return None
    version = models_known.version(challenge.organ, outcome["challenger_version"])
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch) / CHAMPION_CASES
        try:
            kept.write_text(models_known.evidence(version, CHAMPION_CASES), encoding="utf-8")
        except MissingError as error:
            # Not its remedy: the decision would be replayed.
            console.print(f"{error.reason}; {PAGE} shows no single cases", markup=False)
            return None
        return dice_in(kept, challenge.compared(outcome["learned"]))


def summary(outcome: dict[str, Any], page: Path) -> str:
    """The line that the stage says; `page` is where the reasons are."""
    organ, number, champion = (outcome[key] for key in ("organ", "challenger_version", "champion_version"))
    mean = outcome["evidence"]["mean_dice"]
    dice = "no Dice" if mean is None else f"mean Dice {mean:.4f}"
    if outcome["decision"] == PROMOTED:
        return f"{organ}: version {number} is promoted to champion, {dice}"
    if outcome["decision"] == "unchanged":
        return f"{organ}: unchanged, the model is the champion, version {number}, {dice}"
    if outcome["decision"] == AWAITING:
        how = f"hounsfield approve {organ} {number} --by NAME"
        return f"{organ}: version {number} won, {dice}, and waits for approval: {how}"
    remains = f"version {champion} remains champion" if champion else "there is no champion"
    return f"{organ}: version {number} is not promoted, {dice}; {remains}; why: {page}"
