"""How sure a mean over cases is."""

import numpy as np
from numpy.typing import NDArray

SEED = 0


def interval(
    values: NDArray[np.float64], confidence: float = 0.95, resamples: int = 2000
) -> tuple[float, float] | None:
    """The percentile interval of the mean, by resampling the cases with replacement (Efron 1979).

    Args:
        values: a case each; NaN is left out.
        confidence: of the interval.
        resamples: how many.

    Returns:
        Lower and upper end; None of fewer than two values. The same values give the same ends.
    """
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return None
    drawn = np.random.default_rng(SEED).integers(len(known), size=(resamples, len(known)))
    outside = (1 - confidence) / 2
    low, high = np.quantile(known[drawn].mean(axis=1), [outside, 1 - outside])
    return float(low), float(high)
