"""What a decision rests on besides Dice: that the data are valid, and how far they have drifted."""

from collections.abc import Mapping
from typing import Any

from pipeline.params import RegisterParams
from pipeline.validation.drift import drift, verdict

Drifted = Mapping[str, Any]
"""`verdict`, and a sentence for each thing that was `found`."""


def drift_between(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far the challenger's data (`now`) are from the champion's, by their fingerprints.

    None where either is not known.
    """
    if not now or not then:
        return None
    rows = drift(now, then)
    return {"verdict": verdict(rows), "found": [row.sentence for row in rows if row.verdict != "none"]}


def waits_for_drift(drifted: Drifted | None, params: RegisterParams) -> bool:
    """Whether a person has to approve because the data drifted far."""
    return params.on_drift == "approve" and drifted is not None and drifted["verdict"] == "strong"


def data_conditions(
    cases: int, drifted: Drifted | None, params: RegisterParams
) -> list[tuple[bool | None, str]]:
    """Whether each condition is met, and a sentence that says so; None: it decides nothing.

    Args:
        cases: in the test set.
        drifted: as of `drift_between`.
        params: the section `register`.
    """
    # `validate` lets no case through while an error of the whole data set is open.
    valid = f"No validation error is open: the {cases} test cases are of those that validate accepted."
    said: list[tuple[bool | None, str]] = [(True, valid)]
    if drifted is None:
        return said
    found = "; ".join(drifted["found"]) or "nothing has changed"
    sentence = f"Drift of the data against the champion's: {drifted['verdict']} ({found})."
    if waits_for_drift(drifted, params):
        then = " Before it is used a person has to approve (register.on_drift)."
        return [*said, (False, sentence + then)]
    return [*said, (None, sentence)]
