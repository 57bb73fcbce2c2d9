"""From stored numbers to numbers with a meaning: HU for CT, z-scores for MR."""

import numpy as np

from pipeline.errors import DataError
from pipeline.volumes.geometry import Floats

AIR_HU = -1000.0
LOWEST_AIR, HIGHEST_BONE = -1100.0, 30000.0
NARROWEST = 20.0
"""HU between the lowest and the highest value; in any CT the noise alone spans more."""


def calibrate_ct(case: str, image: Floats, offset: float) -> tuple[Floats, str]:
    """A CT in HU, and a note on what was done.

    Scanners mark what they did not measure with values far below air; those become air. Values of
    metal are kept.

    Raises:
        DataError: the values cannot be HU: windowed to 8 bits, scaled to [0, 1], or shifted.
    """
    image = image + np.float32(offset) if offset else image
    low, high = float(image.min()), float(image.max())
    if high - low < NARROWEST:
        raise DataError(
            f"{case}: values from {low:g} to {high:g} are no HU but a scaled image", "use the original CT"
        )
    if low >= 0 and high <= 255:
        raise DataError(
            f"{case}: values from {low:g} to {high:g} are an 8-bit windowed image", "use the original CT"
        )
    if low >= 0:
        raise DataError(
            f"{case}: the lowest value is {low:g}, but air is at {AIR_HU:g} HU",
            "if the values are shifted, say by how much with ingest.hu_offset (for example -1024)",
        )
    if high > HIGHEST_BONE:
        raise DataError(
            f"{case}: the highest value is {high:g}, beyond what HU can be", "check its rescale slope"
        )
    notes = f"HU offset {offset:g} added" if offset else ""
    padding = image < LOWEST_AIR
    if padding.any():
        share = float(padding.mean())
        notes = "; ".join(
            filter(None, [notes, f"{share:.1%} of voxels were padding below {LOWEST_AIR:g}, set to air"])
        )
        image = np.where(padding, np.float32(AIR_HU), image)
    return image, notes


def calibrate_mr(case: str, image: Floats) -> tuple[Floats, str]:
    """An MR volume as z-scores of its own voxels: MR intensities have no unit of their own.

    The brightest and darkest half per cent are clipped first, so that one artefact does not set the
    scale of the rest.

    Raises:
        DataError: all voxels are equal.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    clipped = np.clip(image, low, high)
    deviation = float(clipped.std())
    if deviation <= 1e-6 * abs(float(clipped.mean())):
        raise DataError(
            f"{case}: all voxels are about {float(clipped.mean()):g}", "the image is empty, export it again"
        )
    return ((clipped - clipped.mean()) / deviation).astype(np.float32), ""
