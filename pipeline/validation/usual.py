"""What is usual in the data at hand, and what is plausible of an organ."""

import numpy as np
import pandas as pd

from pipeline.validation.organs import Kind, Range

OUTLIER = 6.0
"""Robust standard deviations from the median organ."""
ENOUGH_ORGANS = 8
"""Fewer are no distribution to be an outlier of."""
SMALLEST_SPREAD = 0.05
"""Of the logarithm of an organ's volume: differences below 5 % are no matter of concern."""


def usual_volume(millilitres: "pd.Series[float]") -> Range | None:
    """The volumes within `OUTLIER` robust standard deviations of the median; None if too few are known.

    Judged on the logarithm: organs are about log-normal, and half as much is as odd as twice as
    much. The standard deviation is 1.4826 times the median absolute deviation, which outliers do
    not move (F. Hampel, Journal of the American Statistical Association 69, 1974).
    """
    present = millilitres[millilitres > 0].astype(float)
    if len(present) < ENOUGH_ORGANS:
        return None
    logarithm: pd.Series[float] = present.map(np.log)
    middle = float(logarithm.median())
    spread = max(1.4826 * float((logarithm - middle).abs().median()), SMALLEST_SPREAD)
    return float(np.exp(middle - OUTLIER * spread)), float(np.exp(middle + OUTLIER * spread))


def volume_limits(kind: Kind | None, usual: Range | None) -> tuple[float | None, float | None, str]:
    """The least and the most millilitres an organ may have, and the words for where that is from.

    Both sources hold where both are known. Data that are unlike any adult are held against what is
    plausible, for then the spacing is often wrong.
    """
    plausible = kind.ml if kind else None
    if plausible is None:
        return (*usual, "usual in these data are") if usual else (None, None, "")
    low, high = plausible
    if usual and max(low, usual[0]) < min(high, usual[1]):
        low, high = max(low, usual[0]), min(high, usual[1])
    return low, high, "plausible are"
