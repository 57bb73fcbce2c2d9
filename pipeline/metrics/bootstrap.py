"""The confidence interval of a mean over cases, by resampling patients: their scans are not independent."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SEED = 0
RESAMPLES = 2000

Indices = NDArray[np.intp]


def patients_of(table: pd.DataFrame) -> dict[str, str]:
    """Whose each case is; of rows of the accepted table."""
    whose = table["patient"] if "patient" in table else table["case"]
    return dict(zip(table["case"], whose, strict=True))


def patient_numbers(cases: Sequence[str], patients: Mapping[str, str]) -> Indices:
    """The number of each case's patient, 0…n - 1, in the order in which they come.

    Args:
        cases: by their names.
        patients: whose a case is; one that is not named is of a patient of its own.
    """
    # A case without a patient is told from a patient who is called so.
    whose = [(case not in patients, patients.get(case, case)) for case in cases]
    return pd.factorize(pd.Series(whose, dtype=object))[0]


def interval(
    values: NDArray[np.float64],
    confidence: float = 0.95,
    patient: Indices | None = None,
) -> tuple[float, float] | None:
    """The percentile interval of the mean, by resampling the patients with replacement (Efron 1979).

    Args:
        values: a case each; NaN is left out.
        confidence: of the interval.
        patient: the number of each case's; all of its cases are drawn together. None: each has its own.

    Returns:
        Lower and upper end; None of fewer than two patients. The same values give the same ends.
    """
    known = ~np.isnan(values)
    own = np.arange(len(values)) if patient is None else patient
    numbers = np.unique(own[known], return_inverse=True)[1]
    count = int(numbers.max()) + 1 if known.any() else 0
    if count < 2:
        return None
    sums, cases = np.bincount(numbers, values[known]), np.bincount(numbers)
    drawn = np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))
    means = sums[drawn].sum(axis=1) / cases[drawn].sum(axis=1)
    outside = (1 - confidence) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    return float(low), float(high)
