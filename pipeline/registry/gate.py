"""The gate: is the challenger provably better than the champion on the same test cases?

Both models are judged on the same frozen cases, so every comparison is paired: what counts is the
difference of two Dice of one case and one label. The uncertainty comes from the patients alone: neither
voxels of one scan nor scans of one patient are independent, so these are never resampled.

A Dice is undefined (NaN) where truth and prediction are both empty. The truth is common to both
models, so NaN on one side only means that this model rightly predicted nothing and the other
something where there is nothing (Dice 0): the NaN counts as 1 in that pair. A pair undefined on both
sides says nothing about the difference and is left out.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from pipeline.errors import DataError
from pipeline.metrics.bootstrap import Indices, patient_numbers
from pipeline.params import RegisterParams

LEAST_PATIENTS = 3
"""A class that fewer patients speak for cannot be called not worse."""
LEAST_CASES = 3
"""A group of fewer cases is not looked at."""
ON_PURPOSE = "if that is on purpose, take the alias 'champion' away in MLflow."
SEED = 0
DIGITS = 6
"""Figures are rounded before they decide, so that no decision hangs on the order of a sum."""

Array = NDArray[np.float64]


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


@dataclass(frozen=True)
class Comparison:
    """Challenger against champion, on all classes or on one."""

    challenger: float
    champion: float
    lower_bound: float
    """Of the one-sided confidence interval of the mean difference."""
    cases: int
    patients: int
    """That the cases are of."""
    rank_p: float = math.nan
    """Of Wilcoxon's signed rank test that the challenger is no better; it decides nothing."""

    @property
    def difference(self) -> float:
        """Mean Dice the challenger gains."""
        return round(self.challenger - self.champion, DIGITS)

    def evidence(self) -> dict[str, float | int | None]:
        """The figures, ready for JSON."""
        return {
            "challenger": _number(self.challenger),
            "champion": _number(self.champion),
            "difference": _number(self.difference),
            "lower_bound": _number(self.lower_bound),
            "cases": self.cases,
            "patients": self.patients,
            "rank_p": _number(self.rank_p),
        }


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
    own = _table(challenger, "the challenger")
    conditions = [_reaches_minimum(own, params), *_no_fold_failed(folds)]
    evidence: dict[str, Any] = {
        "mean_dice": _number(_mean(own.to_numpy())),
        "dice": {label: _number(_mean(own[[label]].to_numpy())) for label in own},
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
        against, found = _against(fresh, _table(champion, "the champion"), params, groups, patients)
        conditions += against
        evidence |= found
    return Decision(
        promoted=all(met for met, _ in conditions),
        reasons=tuple(reason for _, reason in conditions),
        met=tuple(met for met, _ in conditions),
        evidence=evidence,
    )


def paired_dice(challenger: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    """The Dice that are compared: a row a (case, label) that both know, with `challenger` and `champion`.

    Both tables are as of `decide`; the champion's may have fewer cases. What is undefined in both is left
    out, and in one of them counts as 1.
    """
    own, other = _table(challenger, "the challenger"), _table(champion, "the champion")
    _, shared, _ = _classes(own, other)
    own, other = own.loc[other.index, shared], other[shared]
    both = zip(("challenger", "champion"), _filled(own, other), strict=True)
    columns = {whose: pd.DataFrame(dice, own.index, shared).stack() for whose, dice in both}
    return pd.DataFrame(columns).rename_axis(["case", "label"]).dropna().reset_index()


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
    lost, shared, new = _classes(own, other)
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
    both = zip(("challenger", "champion"), _filled(challenger, champion), strict=True)
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


def _filled(challenger: pd.DataFrame, champion: pd.DataFrame) -> tuple[Array, Array]:
    """Dice of both (cases, classes): NaN on one side counts as 1, and on both sides stays."""
    ours, theirs = (np.asarray(table, dtype=np.float64) for table in (challenger, champion))
    undefined = np.isnan(ours) & np.isnan(theirs)
    ours, theirs = (np.where(undefined, np.nan, np.nan_to_num(dice, nan=1.0)) for dice in (ours, theirs))
    return ours, theirs


def compare(
    challenger: pd.DataFrame,
    champion: pd.DataFrame,
    params: RegisterParams,
    patients: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Comparison, dict[str, Comparison]]:
    """Over all classes, and class by class; both tables are (cases, labels) of Dice, alike in both.

    The overall mean is the mean over classes of the mean over cases. The patients are resampled with
    replacement, all cases of a patient and all labels of a case together; the interval is the expanded
    percentile interval (Hesterberg, The American Statistician 69:371, 2015), because the plain one is too
    narrow for the few patients a test set has. Of three or four patients this one is as well: there it
    reaches at least as far as Student's. `patients` is as of `decide`.
    """
    ours, theirs = _filled(challenger, champion)
    informative = ~np.isnan(ours).all(axis=1)
    ours, theirs = ours[informative], theirs[informative]
    patient = patient_numbers(challenger.index[np.flatnonzero(informative)].tolist(), patients)
    means = _resampled_means(ours - theirs, patient, params.resamples)
    classes = {}
    for column, label in enumerate(challenger.columns):
        one = slice(column, column + 1)
        classes[str(label)] = _comparison(
            ours[:, one], theirs[:, one], patient, means[:, one], params.confidence
        )
    return _comparison(ours, theirs, patient, means, params.confidence), classes


def _comparison(ours: Array, theirs: Array, patient: Indices, means: Array, confidence: float) -> Comparison:
    """Of Dice (cases, classes), each case's patient, and resampled mean differences (resamples, classes)."""
    known = (~np.isnan(ours)).any(axis=1)
    cases, patients = int(known.sum()), len(np.unique(patient[known]))
    if patients < LEAST_PATIENTS:
        return Comparison(_mean(ours), _mean(theirs), math.nan, cases, patients)
    present = ~np.isnan(means)
    drawn = present.any(axis=1)
    averaged = np.nan_to_num(means).sum(axis=1)[drawn] / present.sum(axis=1)[drawn]
    bound = _lower_bound(averaged, _mean(ours) - _mean(theirs), confidence, patients)
    rank_p = _rank_p(ours - theirs, patient)
    return Comparison(_mean(ours), _mean(theirs), round(bound, DIGITS), cases, patients, rank_p)


def _lower_bound(means: Array, difference: float, confidence: float, patients: int) -> float:
    """Of the mean `difference`, from the resampled ones."""
    level = expanded_level(confidence, patients)
    bound = float(np.quantile(means, level))
    if level < float(patients) ** -patients:
        # Not even the worst patient drawn every time is so rare: three would all be better, and the bound
        # above 0, by chance in one of eight comparisons of equal models.
        spread = float(means.std()) * math.sqrt(patients / (patients - 1))
        bound = min(bound, difference + float(stdtrit(patients - 1, 1 - confidence)) * spread)
    return bound


def _rank_p(differences: Array, patient: Indices) -> float:
    """Wilcoxon's signed rank test of the patients' mean differences, one-sided; 1 where all are 0."""
    from scipy.stats import wilcoxon

    known = ~np.isnan(differences).all(axis=1)
    of_cases = pd.Series(np.nanmean(differences[known], axis=1))
    means = np.round(of_cases.groupby(patient[known]).mean().to_numpy(), DIGITS)
    if not means.any():
        return 1.0
    return round(float(wilcoxon(means, alternative="greater").pvalue), DIGITS)


def _resampled_means(differences: Array, patient: Indices, resamples: int) -> Array:
    """Mean difference of each class in each resample of the patients, (resamples, classes).

    NaN where no case of a patient that was drawn has the class.
    """
    cases, classes = differences.shape
    if cases == 0:
        return np.full((resamples, classes), np.nan)
    patients = int(patient.max()) + 1
    known = ~np.isnan(differences)
    sums, of_patient = np.zeros((2, patients, classes))
    np.add.at(sums, patient, np.nan_to_num(differences))
    np.add.at(of_patient, patient, known)
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)
    totals, counts = drawn @ sums, drawn @ of_patient
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def expanded_level(confidence: float, patients: int) -> float:
    """The quantile of the bootstrap means that is the lower bound for a mean over so many patients.

    The bootstrap's spread is that of a normal with the variance of the sample divided by n instead of
    n - 1; the level makes up for both, as Student's t would.
    """
    student = -float(stdtrit(patients - 1, confidence))
    return float(ndtr(student * math.sqrt(patients / (patients - 1))))


def _reaches_minimum(own: pd.DataFrame, params: RegisterParams) -> tuple[bool, str]:
    mean = _mean(own.to_numpy())
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


def _table(rows: pd.DataFrame, whose: str) -> pd.DataFrame:
    """Dice as (cases, labels), cases and labels sorted; NaN where undefined."""
    twice = rows[rows.duplicated(["case", "label"])]
    if not twice.empty:
        first = twice.iloc[0]
        raise DataError(
            f"{first['case']}: {whose} has two rows for the label '{first['label']}'",
            "run the stage 'evaluate' again",
        )
    table = rows.pivot(index="case", columns="label", values="dice").astype(np.float64)
    if len(rows) < table.size:
        # A row that is not there must not pass for a Dice that is undefined.
        raise DataError(
            f"of {whose}, {table.size - len(rows)} of {table.size} pairs of test case and label have no row",
            "run the stage 'evaluate' again",
        )
    return table


def _classes(own: pd.DataFrame, other: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Labels only the champion has, both have, only the challenger has."""
    ours, theirs = set(own.columns), set(other.columns)
    return sorted(theirs - ours), sorted(ours & theirs), sorted(ours - theirs)


def _mean(dice: Array) -> float:
    """Mean over classes (columns) of the mean over cases (rows), undefined values left out.

    NaN if nothing is defined.
    """
    columns = [column[~np.isnan(column)] for column in dice.T]
    means = [float(column.mean()) for column in columns if column.size]
    return round(float(np.mean(means)), DIGITS) if means else math.nan


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
