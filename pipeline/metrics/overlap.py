"""Overlap of a label map with the truth: Dice, IoU, sensitivity, precision, volume error.

What empty masks mean: where truth and prediction are both empty there is nothing to measure and
every figure is NaN, which means leave it out; where one of them is empty, Dice and IoU are 0.
Sensitivity is NaN without truth, precision NaN without prediction, volume error NaN without truth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


@dataclass(frozen=True)
class Overlap:
    """Of one label in one case."""

    dice: float
    iou: float
    sensitivity: float
    precision: float
    volume_error: float
    """Predicted over true volume, less one."""
    truth: int
    """Voxels."""
    predicted: int
    """Voxels."""


def overlap(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Overlap:
    """Overlap of two masks of the same shape (Taha & Hanbury 2015)."""
    both = int(np.count_nonzero(truth & predicted))
    t, p = int(np.count_nonzero(truth)), int(np.count_nonzero(predicted))
    return Overlap(
        dice=2 * both / (t + p) if t + p else NAN,
        iou=both / (t + p - both) if t + p else NAN,
        sensitivity=both / t if t else NAN,
        precision=both / p if p else NAN,
        volume_error=p / t - 1 if t else NAN,
        truth=t,
        predicted=p,
    )


def dice(truth: NDArray[np.integer], predicted: NDArray[np.integer], value: int) -> float:
    """Dice of one value of two label maps; NaN where it is in neither."""
    return overlap(truth == value, predicted == value).dice
