"""From stored numbers to numbers with a meaning: HU for CT, z-scores for MR."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.geometry import Floats

AIR_HU = -1000.0
LOWEST_AIR, HIGHEST_BONE = -1100.0, 30000.0
NARROWEST = 20.0
"""HU between the lowest and the highest value; in any CT the noise alone spans more."""
SOFT_TISSUE = 45.0
"""HU where muscle and organs lie thickest."""
CONVENTIONS = (-1000.0, -1024.0)
"""What is added to the numbers of a CT that was stored without a sign."""
SOFT_STORED = range(900, 1300)
"""Where soft tissue lies in such numbers, whichever convention made them."""
FURTHEST = 100.0
"""HU that soft tissue may lie away from its usual place."""
SOFT_HU = 150.0
"""From water to either side: where soft tissue lies, contrast medium and noise included."""
FEW = 0.01
"""Share of the voxels of a CT that noise takes below air, at most."""
FALLEN = 20
"""So many voxels below air to one of soft tissue are no padding around a body."""
VARIED = 0.1
"""Share of the voxels of a CT in HU, at least, that are air, lung and fat of different values."""
SAMPLE = 2_000_000
"""Voxels that a histogram is made of."""


@dataclass(frozen=True)
class Offset:
    """What is added to the stored values of a CT."""

    hu: float = 0.0
    where: Literal["everywhere", "unsigned"] = "everywhere"
    """unsigned: only in a scan without a negative value, which cannot be in HU."""


class Miscalibrated(DataError):
    """Values that are not of the modality, or not in HU, as long as no parameter of `ingest` mends them."""


def calibrate_ct(
    case: str, image: Floats, offset: Offset, padding: float | None = None
) -> tuple[Floats, list[str]]:
    """A CT in HU, and notes on what was done; the array that is given is not changed.

    Scanners mark what they did not measure with a padding value, or with values far below air; those
    become air. Values of metal are kept.

    Args:
        case: for the message.
        image: (Z, Y, X), stored values with the header's rescaling applied.
        offset: to be added.
        padding: the value of what was not measured, if the header names one.

    Raises:
        DataError: the values cannot be HU: windowed to 8 bits, scaled to [0, 1], or shifted; or they were HU
            before the offset.
    """
    notes = []
    outside = image == np.float32(padding) if padding is not None and padding != 0 else None
    low, high = float(image.min()), float(image.max())
    _refuse_scaled(case, low, high)
    if offset.hu and (offset.where == "everywhere" or low >= 0):
        stored, image = image, image + np.float32(offset.hu)
        _refuse_shifted(case, stored, image, offset.hu, outside)
        low, high = low + offset.hu, high + offset.hu
        notes.append(f"HU offset {offset.hu:g} added")
    if low >= 0:
        raise Miscalibrated(
            f"{case}: the lowest value is {low:g}, but air is at {AIR_HU:g} HU",
            "if the values are shifted, say by how much with ingest.hu_offset (for example -1024)",
        )
    if high > HIGHEST_BONE:
        raise DataError(
            f"{case}: the highest value is {high:g}, beyond what HU can be", "check its rescale slope"
        )
    if low < LOWEST_AIR or outside is not None:
        outside = image < LOWEST_AIR if outside is None else outside | (image < LOWEST_AIR)
        share = float(outside.mean())
        if share:
            notes.append(f"{share:.1%} of voxels were padding, set to air")
            image = np.where(outside, np.float32(AIR_HU), image)
    return image, notes


def _refuse_scaled(case: str, low: float, high: float) -> None:
    """Refuse numbers from which HU cannot be got back, before an offset makes them look like some."""
    if high - low < NARROWEST:
        raise DataError(
            f"{case}: values from {low:g} to {high:g} are no HU but a scaled image", "use the original CT"
        )
    if low >= 0 and high <= 255:
        raise DataError(
            f"{case}: values from {low:g} to {high:g} are an 8-bit windowed image", "use the original CT"
        )


def _refuse_shifted(
    case: str, stored: Floats, shifted: Floats, hu: float, outside: NDArray[np.bool_] | None
) -> None:
    """Refuse a CT that an offset takes out of HU: most of the body would be set to air as padding is."""
    fell = (shifted < LOWEST_AIR) & (stored >= LOWEST_AIR)
    if outside is not None:
        fell &= ~outside
    fallen = float(fell.mean())
    if fallen <= FEW:
        return
    soft = float(np.mean(np.abs(shifted) <= SOFT_HU))
    # Filled corners of a shifted scan may fall, too, but they are of one value; air, lung and fat are not.
    varied = float(np.mean(fell & (stored != np.median(stored[fell]))))
    # Of a scan that was HU, what does not fall is soft tissue, which is no more near water, and bone.
    bare = fallen > FALLEN * soft and soft < (1 - fallen) / 2
    if varied > max(VARIED, soft) or bare:
        raise Miscalibrated(
            f"{case}: the HU offset of {hu:g} takes {fallen:.0%} of it below air and {soft:.0%} near water",
            "its values may be HU already: shift the scans that need it, and set ingest.hu_offset to auto",
        )


def soft_tissue_peak(image: Floats) -> float | None:
    """Where soft tissue lies in a CT that was stored without a sign.

    Args:
        image: (Z, Y, X), stored values.

    Returns:
        The value that occurs most near water, of a smoothed histogram; None where the image has
        negative values, or nothing near water.
    """
    step = max(1, round((image.size / SAMPLE) ** (1 / 3)))
    thin = image[::step, ::step, ::step]
    if image.min() < 0 or not np.isin(np.round(thin[: thin.shape[0] // 2 + 1]), SOFT_STORED).any():
        return None
    first, last = SOFT_STORED.start - 20, SOFT_STORED.stop + 20
    counts, _ = np.histogram(thin, last - first, (first - 0.5, last - 0.5))
    smooth = np.convolve(counts, np.hanning(31), "same")
    # Fat has a peak of its own a hundred below; soft tissue is the highest one above it.
    start = SOFT_STORED.start + 85 - first
    return float(first + start + int(smooth[start:].argmax()))


def find_offset(peaks: Sequence[float | None]) -> Offset:
    """The offset of a set of CTs, by where their soft tissue lies.

    One for all, because one export made them: a single scan full of contrast medium or fat would
    mislead. The convention is taken that brings the median nearest to soft tissue; none, if neither does.

    Args:
        peaks: of `soft_tissue_peak`; None for scans that need no offset.
    """
    known = [peak for peak in peaks if peak is not None]
    if not known:
        return Offset()
    middle = float(np.median(known))
    best = min(CONVENTIONS, key=lambda hu: abs(middle + hu - SOFT_TISSUE))
    return Offset(best, "unsigned") if abs(middle + best - SOFT_TISSUE) <= FURTHEST else Offset()


def calibrate_mr(
    case: str, image: Floats, scale: Literal["zscore", "percentiles"] = "zscore"
) -> tuple[Floats, list[str]]:
    """An MR volume by its own voxels: MR intensities have no unit of their own.

    The brightest and darkest half per cent are clipped first, so that one artefact does not set the
    scale of the rest.

    Args:
        case: for the message.
        image: (Z, Y, X).
        scale: zscore: mean 0, deviation 1; percentiles: the clipped range becomes -1 to 1.

    Raises:
        DataError: all voxels are equal.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    clipped = np.clip(image, low, high)
    mean, deviation = float(clipped.mean()), float(clipped.std())
    if deviation <= 1e-6 * abs(mean):
        raise DataError(f"{case}: all voxels are about {mean:g}", "the image is empty, export it again")
    if scale == "percentiles":
        mean, deviation = (float(low) + float(high)) / 2, (float(high) - float(low)) / 2
    return ((clipped - mean) / deviation).astype(np.float32), []
