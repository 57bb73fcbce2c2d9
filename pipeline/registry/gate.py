"""The gate: is the challenger provably better than the champion on the same test cases?"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from pipeline.errors import DataError
from pipeline.params import RegisterParams
from pipeline.registry.comparison import (
    DIGITS,
    LEAST_PATIENTS,
    Comparison,
    compare,
    dice_table,
    json_number,
    lost_shared_and_new,
    mean_dice,
    paired_arrays,
)

LEAST_CASES = 3
"""A group of fewer cases is not looked at."""
ON_PURPOSE = "if that is on purpose, take the alias 'champion' away in MLflow."


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why."""

    promoted: bool
    reasons: tuple[str, ...]
    """A sentence with figures for every condition, met or not."""
    met: tuple[bool, ...]
    """Whether the condition of each sentence is met."""
    evidence: dict[str, Any]
    """The figures, ready for JSON; what is undefined is None."""


def decide(
    challenger: pd.DataFrame,
    champion: pd.DataFrame | None,
    params: RegisterParams,
    groups: Mapping[str, Collection[str]] = MappingProxyType({}),
    folds: Mapping[str, float] = MappingProxyType({}),
    patients: Mapping[str, str] = MappingProxyType({}),
    learned: Collection[str] = (),
    obstacle: str = "",
) -> Decision:
    """Whether the challenger becomes the champion.

    It does if its mean Dice reaches `minimum_dice` and, where there is a champion, it is not worse on
    any class the champion knows (with `confidence`, the mean difference is above `-margin`),
    better over all classes (with `confidence`, the mean difference is above 0), and in no group of
    cases worse by more than `collapse`. Of an ensemble no network may have failed, champion or not: a mean
    over folds hides it.

    Args:
        challenger: columns case, label, dice; a row a (case, label); an undefined Dice is NaN.
        champion: the same for the same cases; None if there is no champion.
        params: the section `register`.
        groups: names of cases by the name of their group.
        folds: Dice of each of the challenger's networks on the fold that it left out, where it is known.
        patients: whose a case is; one that is not named is of a patient of its own.
        learned: cases that one of the two has learned from; the champion's table may do without them, as they
            are not compared.
        obstacle: why there is a champion that cannot be judged on these cases; the challenger is refused.

    Raises:
        DataError: a pair of case and label is missing or there twice, or the two models were not
            judged on the same cases.
    """
    own = dice_table(challenger, "the challenger")
    conditions = [_reaches_minimum(own, params), *_no_fold_failed(folds)]
    evidence: dict[str, Any] = {
        "mean_dice": json_number(mean_dice(own.to_numpy())),
        "dice": {label: json_number(mean_dice(own[[label]].to_numpy())) for label in own},
        "folds": dict(folds),
        **params.model_dump(mode="json"),
    }
    if obstacle:
        conditions.append((False, f"{obstacle}; {ON_PURPOSE}"))
    elif champion is None:
        conditions.append((True, "There is no champion yet, so there is none to beat."))
    else:
        conditions += _fresh(own, learned)
        fresh = own[~own.index.isin(list(learned))]
        against, found = _against(fresh, dice_table(champion, "the champion"), params, groups, patients)
        conditions += against
        evidence |= found
    return Decision(
        promoted=all(met for met, _ in conditions),
        reasons=tuple(reason for _, reason in conditions),
        met=tuple(met for met, _ in conditions),
        evidence=evidence,
    )


def _against(
    own: pd.DataFrame,
    other: pd.DataFrame,
    params: RegisterParams,
    groups: Mapping[str, Collection[str]],
    patients: Mapping[str, str],
) -> tuple[list[tuple[bool, str]], dict[str, Any]]:
    """Conditions and evidence of the comparison with the champion."""
    if set(own.index) != set(other.index):
        raise DataError(
            f"challenger and champion were judged on different cases ({len(own)} and {len(other)})",
            "run the stage 'evaluate' again",
        )
    lost, shared, new = lost_shared_and_new(own, other)
    conditions = [
        (
            False,
            f"{label}: the champion segments it, the challenger does not; {ON_PURPOSE}",
        )
        for label in lost
    ]
    overall, classes = compare(own[shared], other.loc[own.index, shared], params, patients)
    conditions += [_not_worse(label, comparison, params) for label, comparison in classes.items()]
    conditions += [(True, f"{label}: new, the champion does not segment it.") for label in new]
    conditions.append(_better(overall, params))
    of_groups = _by_group(own[shared], other.loc[own.index, shared], groups)
    conditions += _none_collapsed(of_groups, params)
    return conditions, {
        "overall": overall.evidence(),
        "classes": {label: found.evidence() for label, found in classes.items()},
        "subgroups": of_groups,
    }


def _fresh(own: pd.DataFrame, learned: Collection[str]) -> list[tuple[bool, str]]:
    """What is said where not all of the test cases can be compared."""
    count = int(own.index.isin(list(learned)).sum())
    if not count:
        return []
    said = f"{count} of {len(own)} test cases are left out of the comparison"
    return [(True, f"{said}: the champion, or the model one of the two began with, has learned from them.")]


def _by_group(
    challenger: pd.DataFrame, champion: pd.DataFrame, groups: Mapping[str, Collection[str]]
) -> dict[str, dict[str, float | int]]:
    """Means of both and of the difference, and number of cases, of each group that enough cases speak for."""
    both = zip(("challenger", "champion"), paired_arrays(challenger, champion), strict=True)
    means = pd.DataFrame(
        {whose: pd.DataFrame(dice, index=challenger.index).mean(axis=1) for whose, dice in both}
    ).dropna()
    means["difference"] = means["challenger"] - means["champion"]
    found: dict[str, dict[str, float | int]] = {}
    for name, cases in groups.items():
        own = means[means.index.isin(list(cases))]
        if len(own) >= LEAST_CASES:
            found[name] = {str(column): round(float(own[column].mean()), DIGITS) for column in own}
            found[name]["cases"] = len(own)
    return found


def _none_collapsed(
    groups: Mapping[str, Mapping[str, float | int]], params: RegisterParams
) -> list[tuple[bool, str]]:
    if not groups:
        return []
    collapsed = {name: one for name, one in groups.items() if one["difference"] < -params.collapse}
    if collapsed:
        return [
            (
                False,
                f"{name}: Dice {one['difference']:+.4f} in {one['cases']} cases; collapsed, "
                f"as no group may lose more than {params.collapse:g}.",
            )
            for name, one in collapsed.items()
        ]
    worst = min(groups, key=lambda name: groups[name]["difference"])
    least = f"{groups[worst]['difference']:+.4f} ({worst}, {groups[worst]['cases']} cases)"
    return [(True, f"Of {len(groups)} groups of cases none collapsed; the least difference is {least}.")]


def _reaches_minimum(own: pd.DataFrame, params: RegisterParams) -> tuple[bool, str]:
    mean = mean_dice(own.to_numpy())
    if math.isnan(mean):
        return False, "Mean Dice: undefined, no test case has a label to find."
    met = mean >= params.minimum_dice
    verdict = f"{'at least' if met else 'below'} the minimum of {params.minimum_dice:g}"
    if unjudged := [str(label) for label in own if own[label].isna().all()]:
        verdict += f"; how good it is at {', '.join(unjudged)}, no test case tells"
    return met, f"Mean Dice: {mean:.4f}, {verdict}."


def _no_fold_failed(folds: Mapping[str, float]) -> list[tuple[bool, str]]:
    """Whether each network is at least half as good as the median of the others, where there are several."""
    if len(folds) < 2:
        return []
    said = []
    for fold, dice in folds.items():
        others = float(np.median([one for other, one in folds.items() if other != fold]))
        if dice < others / 2:
            told = f"Dice {dice:.4f} on the fold it left out, the median of the others {others:.4f}"
            said.append((False, f"The network without fold {fold}: {told}; collapsed."))
    if said:
        return said
    worst = min(folds, key=lambda fold: folds[fold])
    least = f"the least Dice on the fold it left out is {folds[worst]:.4f} (fold {worst})"
    return [(True, f"Of {len(folds)} networks none collapsed; {least}.")]


def _not_worse(label: str, comparison: Comparison, params: RegisterParams) -> tuple[bool, str]:
    if comparison.patients < LEAST_PATIENTS:
        return False, f"{label}: {_too_few(comparison)}"
    met = comparison.lower_bound > -params.margin
    verdict = "not worse" if met else "may be worse"
    return met, f"{label}: {_figures(comparison, params)}; {verdict}, by the margin of {params.margin:g}."


def _better(comparison: Comparison, params: RegisterParams) -> tuple[bool, str]:
    if comparison.patients < LEAST_PATIENTS:
        return False, f"All classes: {_too_few(comparison)}"
    met = comparison.lower_bound > 0
    verdict = "better" if met else "not shown to be better"
    return met, f"All classes: {_figures(comparison, params)}; {verdict}."


def _figures(comparison: Comparison, params: RegisterParams) -> str:
    return (
        f"Dice {comparison.challenger:.4f} against the champion's {comparison.champion:.4f} in "
        f"{_cases(comparison)}, difference {comparison.difference:+.4f}, "
        f"with {100 * params.confidence:g} % confidence above {comparison.lower_bound:+.4f}"
        f" (rank test: p = {comparison.rank_p:.2g})"
    )


def _too_few(comparison: Comparison) -> str:
    of_patients = comparison.cases != comparison.patients
    needed = f"{LEAST_PATIENTS} patients are needed" if of_patients else f"{LEAST_PATIENTS} are needed"
    return f"only {_cases(comparison, 'test cases')} can be compared, {needed}."


def _cases(comparison: Comparison, what: str = "cases") -> str:
    """How many there are, and of how many patients where these are fewer."""
    told = f"{comparison.cases} {what}"
    return told if comparison.cases == comparison.patients else f"{told} of {comparison.patients} patients"
