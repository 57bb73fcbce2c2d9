"""Calibration: whether probabilities are true, that is, of voxels given 70 %, 70 % are the label.

Voxels are counted by label and by ten equal bins of the probability (the reliability diagram of Guo et al.,
On Calibration of Modern Neural Networks, ICML 2017), each label against all else. The expected calibration
error is that of Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.

Nearly all voxels of a scan are background that no model doubts; counted, they would make every model look
well calibrated. A voxel counts for a label if its probability is at least `LEAST`. Chosen by the probability
alone, what is left is as well calibrated as the whole; chosen by the truth as well, it would not be. Voxels
of the label with less than that are told as `missed`: of them the model had no idea.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.labels import UNKNOWN

BINS = 10
LEAST = 0.01
"""Of the probability, for a voxel to count."""
SLAB = 1 << 22
"""Voxels that are looked at together, so that the memory needed does not grow with the scan."""

Counts = NDArray[np.int64]
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Tally:
    """Voxels by class and bin; what was counted apart adds up."""

    voxels: Counts
    """(classes, bins)."""
    probability: Sums
    """Of these voxels, summed, (classes, bins)."""
    true: Counts
    """How many of these voxels are of the class, (classes, bins)."""
    missed: Counts
    """Voxels of the class with a probability below `LEAST`, (classes,)."""

    def __add__(self, other: "Tally") -> "Tally":
        """Of the voxels of both."""
        return Tally(
            self.voxels + other.voxels,
            self.probability + other.probability,
            self.true + other.true,
            self.missed + other.missed,
        )


def nothing(classes: int) -> Tally:
    """Of no voxel: where a sum begins."""
    of_bins = (classes, BINS)
    counts = np.zeros(of_bins, np.int64)
    return Tally(counts, np.zeros(of_bins), counts.copy(), np.zeros(classes, np.int64))


def tally(shares: NDArray[np.floating], truth: NDArray[np.integer], looked_for: Collection[int]) -> Tally:
    """Count the voxels of a case, or of a slab of one.

    Args:
        shares: probability of each class, (classes, Z, Y, X); the first is the background.
        truth: class index of each voxel, (Z, Y, X); UNKNOWN ones are left out.
        looked_for: class indices that somebody annotated in the case; of others nothing is counted.
    """
    counted = nothing(len(shares))
    slices = max(1, SLAB // max(1, truth[0].size))
    for start in range(0, len(truth), slices):
        slab = truth[start : start + slices].ravel()
        known = slab != UNKNOWN
        for index in looked_for:
            share = shares[index, start : start + slices].ravel()
            _add(counted, index, share, slab == index, known)
    return counted


def _add(
    counted: Tally,
    index: int,
    share: NDArray[np.floating],
    true: NDArray[np.bool_],
    known: NDArray[np.bool_],
) -> None:
    """Add a class's voxels (voxels,) to what is counted."""
    seen = known & (share >= LEAST)
    counted.missed[index] += np.count_nonzero(true & ~seen)
    probability = share[seen].astype(np.float64)
    # Rounding may leave a sum of shares a little above 1.
    bins = np.minimum((probability * BINS).astype(np.intp), BINS - 1)
    counted.voxels[index] += np.bincount(bins, minlength=BINS)
    counted.probability[index] += np.bincount(bins, probability, BINS)
    counted.true[index] += np.bincount(bins[true[seen]], minlength=BINS)


def as_table(counted: Tally, labels: Mapping[str, int]) -> pd.DataFrame:
    """A row a label and bin that holds a voxel.

    Args:
        counted: over all cases.
        labels: name and class index of each label.

    Returns:
        label, bin (from 0), voxels, confidence (mean probability), observed (the share that is of the
        label), missed (voxels of the label below `LEAST`, the same in each row of a label).
    """
    columns = ["label", "bin", "voxels", "confidence", "observed", "missed"]
    rows = []
    for name, index in labels.items():
        for place in np.flatnonzero(counted.voxels[index]):
            voxels = int(counted.voxels[index, place])
            means = (float(sums[index, place]) / voxels for sums in (counted.probability, counted.true))
            rows.append((name, int(place), voxels, *means, int(counted.missed[index])))
    return pd.DataFrame(rows, columns=columns)


def expected_error(bins: pd.DataFrame) -> float:
    """The expected calibration error of one label: how far `confidence` is from `observed`, on average.

    Args:
        bins: the label's rows of `as_table`.
    """
    apart = (bins["confidence"] - bins["observed"]).abs()
    return float((apart * bins["voxels"]).sum() / bins["voxels"].sum())


def overconfidence(bins: pd.DataFrame) -> float:
    """By how much the mean probability of one label exceeds the share that is true; below 0: falls short.

    Args:
        bins: the label's rows of `as_table`.
    """
    apart = bins["confidence"] - bins["observed"]
    return float((apart * bins["voxels"]).sum() / bins["voxels"].sum())
