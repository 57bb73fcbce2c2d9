"""Where in an image nothing can be, by its intensity alone: such windows need not be computed.

After the step that rules out most of a scan before a network looks, in Anirudh et al., "Lung nodule detection
using 3D convolutional neural networks trained on weakly labeled data", SPIE Medical Imaging 2016.
"""

from collections.abc import Sequence

import pandas as pd
from torch import Tensor
from torch.nn import functional

SMOOTHED = 3
"""Edge of the cube, in voxels, whose mean is looked at: noise alone does not make air an organ."""
REACH = 4
"""Voxels around what can hold a label that are looked at, too: borders are mixed of both sides."""


def labelled_range(cases: pd.DataFrame) -> tuple[float, float] | None:
    """The lowest and highest intensity of labelled voxels, of the first channel.

    Args:
        cases: rows of the table of accepted cases that are learned from.

    Returns:
        The extremes over cases of the percentiles that ingest measured; None if nothing is labelled.
    """
    measured = cases.dropna(subset=["fg_low", "fg_high"])
    if measured.empty:
        return None
    return float(measured["fg_low"].min()), float(measured["fg_high"].max())


def ruled_in(image: Tensor, held: Sequence[float]) -> Tensor:
    """Where an image can hold a label, (Z, Y, X) bool.

    Args:
        image: calibrated, (C, Z, Y, X).
        held: the range of intensities of labelled voxels, of the first channel.
    """
    low, high = held
    smooth = functional.avg_pool3d(image[:1], SMOOTHED, 1, SMOOTHED // 2, count_include_pad=False)
    can = ((smooth >= low) & (smooth <= high)).float()
    near: Tensor = functional.max_pool3d(can, 2 * REACH + 1, 1, REACH)[0]
    return near.bool()
