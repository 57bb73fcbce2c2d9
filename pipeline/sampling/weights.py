"""What each patch weighs: labels that few cases have come as often as those that all have."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST = 4.0
"""What a patch weighs at most: one that came more often would be learned by heart."""


def by_label(classes: pd.Series, balance: Mapping[int, float]) -> NDArray[np.float64]:
    """Weights by which each class is at the centre of as many patches as every other.

    Args:
        classes: of the voxels at the centres of patches, 0 where a centre is there for no class.
        balance: what each class counts against the others; those that are left out: 1.

    Returns:
        A weight a patch: 1 where there is no class, elsewhere 1 in the mean unless `MOST` cuts it.
    """
    counts = classes[classes > 0].value_counts()
    wanted = pd.Series({value: balance.get(int(value), 1.0) for value in counts.index}, dtype=float)
    wanted *= counts.sum() / max(wanted.sum(), np.finfo(float).tiny)
    weights = classes.map(wanted / counts).fillna(1.0)
    return weights.clip(upper=MOST).to_numpy(float)


def epoch_rows(weights: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """The rows of an epoch in the order in which they are learned from, as many as there are weights.

    Each comes as often as its weight says against the mean, rounded up or down at random (systematic
    sampling): once where all weigh the same.

    Args:
        weights: of the rows; not all 0.
        generator: the source of randomness, keyed by the epoch.
    """
    order = generator.permutation(len(weights))
    if (weights == weights[0]).all():
        return order
    ends = weights.cumsum() / weights.sum() * len(weights)
    picked = np.searchsorted(ends, np.arange(len(weights)) + generator.random(), side="right")
    # The last end may lie below their number, by rounding.
    return picked.clip(max=len(weights) - 1)[order]
