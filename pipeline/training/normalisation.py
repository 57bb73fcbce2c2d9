"""Intensities as a network sees them: clipped, shifted and scaled, channel by channel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def normalise(image: Tensor, channels: Sequence[dict[str, Any]]) -> Tensor:
    """HU or z-scores clipped, shifted and scaled as the plan says.

    Args:
        image: (..., C, Z, Y, X).
        channels: of the result, each with the image it is made of, clip, mean and std.

    Returns:
        (..., len(channels), Z, Y, X).
    """
    seen = [
        image.select(-4, one["image"]).clamp(*one["clip"]).sub_(one["mean"]).div_(one["std"])
        for one in channels
    ]
    return torch.stack(seen, dim=-4)
