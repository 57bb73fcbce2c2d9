"""Two models on the same test cases: the differences of their Dice, and how sure these are.

Both models are judged on the same frozen cases, so every comparison is paired: what counts is the
difference of two Dice of one case and one label. The uncertainty comes from the patients alone: neither
voxels of one scan nor scans of one patient are independent, so these are never resampled.

A Dice is undefined (NaN) where truth and prediction are both empty. The truth is common to both
models, so NaN on one side only means that this model rightly predicted nothing and the other
something where there is nothing (Dice 0): the NaN counts as 1 in that pair. A pair undefined on both
sides says nothing about the difference and is left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from pipeline.errors import DataError
from pipeline.metrics.bootstrap import Indices, patient_numbers
from pipeline.params import RegisterParams

LEAST_PATIENTS = 3
"""A class that fewer patients speak for cannot be called not worse."""
SEED = 0
DIGITS = 6
"""Figures are rounded before they decide, so that no decision hangs on the order of a sum."""

Array = NDArray[np.float64]


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
            "challenger": json_number(self.challenger),
            "champion": json_number(self.champion),
            "difference": json_number(self.difference),
            "lower_bound": json_number(self.lower_bound),
            "cases": self.cases,
            "patients": self.patients,
            "rank_p": json_number(self.rank_p),
        }


def paired_dice(challenger: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    """The Dice that are compared: a row a (case, label) that both know, with `challenger` and `champion`.

    Both tables are as of `decide`; the champion's may have fewer cases. What is undefined in both is left
    out, and in one of them counts as 1.
    """
    own, other = dice_table(challenger, "the challenger"), dice_table(champion, "the champion")
    _, shared, _ = lost_shared_and_new(own, other)
    own, other = own.loc[other.index, shared], other[shared]
    both = zip(("challenger", "champion"), paired_arrays(own, other), strict=True)
    columns = {whose: pd.DataFrame(dice, own.index, shared).stack() for whose, dice in both}
    return pd.DataFrame(columns).rename_axis(["case", "label"]).dropna().reset_index()


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
    ours, theirs = paired_arrays(challenger, champion)
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
        return Comparison(mean_dice(ours), mean_dice(theirs), math.nan, cases, patients)
    present = ~np.isnan(means)
    drawn = present.any(axis=1)
    averaged = np.nan_to_num(means).sum(axis=1)[drawn] / present.sum(axis=1)[drawn]
    bound = _lower_bound(averaged, mean_dice(ours) - mean_dice(theirs), confidence, patients)
    rank_p = _rank_p(ours - theirs, patient)
    return Comparison(mean_dice(ours), mean_dice(theirs), round(bound, DIGITS), cases, patients, rank_p)


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


def expanded_level(confidence: float, patients: int) -> float:
    """The quantile of the bootstrap means that is the lower bound for a mean over so many patients.

    The bootstrap's spread is that of a normal with the variance of the sample divided by n instead of
    n - 1; the level makes up for both, as Student's t would.
    """
    student = -float(stdtrit(patients - 1, confidence))
    return float(ndtr(student * math.sqrt(patients / (patients - 1))))


def _rank_p(differences: Array, patient: Indices) -> float:
    """Wilcoxon's signed rank test of the patients' mean differences, one-sided; 1 where all are 0."""
    from scipy.stats import wilcoxon

    known = ~np.isnan(differences).all(axis=1)
    of_cases = pd.Series(np.nanmean(differences[known], axis=1))
    means = np.round(of_cases.groupby(patient[known]).mean().to_numpy(), DIGITS)
    if not means.any():
        return 1.0
    return round(float(wilcoxon(means, alternative="greater").pvalue), DIGITS)


def dice_table(rows: pd.DataFrame, whose: str) -> pd.DataFrame:
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


def lost_shared_and_new(own: pd.DataFrame, other: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Labels only the champion has, both have, only the challenger has."""
    ours, theirs = set(own.columns), set(other.columns)
    return sorted(theirs - ours), sorted(ours & theirs), sorted(ours - theirs)


def paired_arrays(challenger: pd.DataFrame, champion: pd.DataFrame) -> tuple[Array, Array]:
    """Dice of both (cases, classes): NaN on one side counts as 1, and on both sides stays."""
    ours, theirs = (np.asarray(table, dtype=np.float64) for table in (challenger, champion))
    undefined = np.isnan(ours) & np.isnan(theirs)
    ours, theirs = (np.where(undefined, np.nan, np.nan_to_num(dice, nan=1.0)) for dice in (ours, theirs))
    return ours, theirs


def mean_dice(dice: Array) -> float:
    """Mean over classes (columns) of the mean over cases (rows), undefined values left out.

    NaN if nothing is defined.
    """
    columns = [column[~np.isnan(column)] for column in dice.T]
    means = [float(column.mean()) for column in columns if column.size]
    return round(float(np.mean(means)), DIGITS) if means else math.nan


def json_number(value: float) -> float | None:
    """What JSON has for `value`: null where it is undefined."""
    return None if math.isnan(value) else value
