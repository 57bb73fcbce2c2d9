"""What a network sees of the intensities."""

from typing import Any

from torch import Tensor


def normalise(image: Tensor, normalisation: dict[str, Any]) -> Tensor:
    """HU or z-scores clipped, shifted and scaled as the plan says; any shape."""
    low, high = normalisation["clip"]
    normalised: Tensor = (image.clamp(low, high) - normalisation["mean"]) / normalisation["std"]
    return normalised
