"""Where an image can hold no label, by its intensity alone: windows there need not be computed.

After the step that rules out most of a scan before a network looks, in Anirudh et al., "Lung nodule detection
using 3D convolutional neural networks trained on weakly labeled data", SPIE Medical Imaging 2016.
"""

from collections.abc import Sequence

import numpy as np
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
        The extremes over cases of the percentiles of all labelled voxels, and of the median of each label,
        that ingest measured; None if nothing is labelled.
    """
    measured = cases.dropna(subset=["fg_low", "fg_high"])
    if measured.empty:
        return None
    # Among all labelled voxels a small label may be none of those within the percentiles.
    facts = [name for name in measured if name in ("fg_low", "fg_high") or str(name).startswith("hu_")]
    ends = measured[facts].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    return float(np.nanmin(ends)), float(np.nanmax(ends))


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
