"""What each patch weighs: labels that few cases have come as often as those that all have."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST = 4.0
"""What a patch weighs at most, the mean being 1: one that came more often would be learned by heart."""


def by_label(classes: pd.Series, balance: Mapping[int, float]) -> NDArray[np.float64]:
    """Weights by which each class is at the centre of as many patches as every other.

    Where a class would need more than `MOST`, the others share what it leaves.

    Args:
        classes: of the voxels at the centres of patches, 0 where a centre is there for no class.
        balance: what each class counts against the others; those that are left out: 1.

    Returns:
        A weight a patch: 1 where there is no class, elsewhere 1 in the mean.
    """
    counts = classes[classes > 0].value_counts()
    wanted = pd.Series({value: balance.get(int(value), 1.0) for value in counts.index}, dtype=float)
    most = pd.Series(False, counts.index)
    while True:
        rest, free = counts.sum() - MOST * counts[most].sum(), ~most
        weights = (wanted * rest / wanted[free].sum() / counts).where(free, MOST)
        if not (weights > MOST).any():
            return classes.map(weights).fillna(1.0).to_numpy(float)
        most |= weights > MOST
