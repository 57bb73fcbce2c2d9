"""Intensity transforms of a batch of normalised images: noise, blur, brightness, contrast, gamma."""

import math
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.params import AugmentParams

BLUR_RADIUS = 3
"""Voxels; three deviations of the widest blur that is allowed."""
STEPS = ("noise", "blur", "brightness", "contrast", "gamma")


@dataclass(frozen=True)
class IntensityDraw:
    """For each element of a batch, (B,): the strength of each step; the neutral value switches it off."""

    noise: Tensor
    """Deviation; 0 is off."""
    noise_seed: int
    blur: Tensor
    """Sigma in voxels; 0 is off."""
    brightness: Tensor
    """Added; 0 is off."""
    contrast: Tensor
    """Factor about the mean; 1 is off."""
    gamma: Tensor
    """Exponent over the range of the element; 1 is off."""


def draw_intensity(
    params: AugmentParams, shape: tuple[int, int, int, int, int], generator: torch.Generator
) -> IntensityDraw:
    """Draw the strength of every step for each element of a batch of images (B, C, Z, Y, X)."""

    def strength(limits: tuple[float, float], neutral: float) -> Tensor:
        value = torch.rand(shape[0], generator=generator) * (limits[1] - limits[0]) + limits[0]
        used = torch.rand(shape[0], generator=generator) < params.intensity_probability
        return torch.where(used, value, torch.tensor(neutral))

    return IntensityDraw(
        noise=strength(params.noise_std, 0.0),
        noise_seed=int(torch.randint(2**62, (1,), generator=generator)),
        blur=strength(params.blur_sigma, 0.0),
        brightness=strength(params.brightness, 0.0),
        contrast=strength(params.contrast, 1.0),
        gamma=strength(params.gamma, 1.0),
    )


def apply_intensity(image: Tensor, drawn: IntensityDraw) -> Tensor:
    """Apply the steps to image (B, C, Z, Y, X), in the order of `STEPS`."""
    image = _blur(_noise(image, drawn), drawn.blur)
    brightness, contrast, gamma = (
        value.to(image)[:, None, None, None, None]
        for value in (drawn.brightness, drawn.contrast, drawn.gamma)
    )
    mean = image.mean(dim=(2, 3, 4), keepdim=True)
    # Written as a change, so that an element which is not chosen keeps every bit.
    image = image + ((image - mean) * (contrast - 1) + brightness)
    return _gamma(image, gamma) if bool((drawn.gamma != 1).any()) else image


def _noise(image: Tensor, drawn: IntensityDraw) -> Tensor:
    """Gaussian noise, drawn on the CPU so that every device adds the same."""
    noisy = drawn.noise > 0
    if not bool(noisy.any()):
        return image
    generator = torch.Generator().manual_seed(drawn.noise_seed)
    noise = torch.randn((int(noisy.sum()), *image.shape[1:]), generator=generator)
    noise = noise * drawn.noise[noisy][:, None, None, None, None]
    return image.index_add(0, noisy.nonzero()[:, 0].to(image.device), noise.to(image))


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, axis by axis, with a sigma of its own for each element."""
    blurred = sigma > 0
    if not bool(blurred.any()):
        return image
    chosen = image[blurred.to(image.device)]
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = (-0.5 * (offsets / sigma[blurred][:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(image)[:, :, None, None, None, None]
    for axis in (2, 3, 4):
        sides = [0] * 6
        sides[2 * (4 - axis)] = sides[2 * (4 - axis) + 1] = BLUR_RADIUS
        padded = functional.pad(chosen, sides, mode="replicate")
        length = chosen.shape[axis]
        shifted = (kernel[:, k] * padded.narrow(axis, k, length) for k in range(len(offsets)))
        chosen = reduce(torch.add, shifted)
    return image.index_copy(0, blurred.nonzero()[:, 0].to(image.device), chosen)


def _gamma(image: Tensor, gamma: Tensor) -> Tensor:
    """Power-law curve over the range of each element; mean and deviation stay as they were."""
    low = image.amin(dim=(2, 3, 4), keepdim=True)
    width = (image.amax(dim=(2, 3, 4), keepdim=True) - low).clamp_min(1e-6)
    curved = ((image - low) / width).clamp_min(1e-7) ** gamma
    centred = curved - curved.mean(dim=(2, 3, 4), keepdim=True)
    scale = _deviation(image) / _deviation(curved).clamp_min(1e-6)
    changed = centred * scale + image.mean(dim=(2, 3, 4), keepdim=True)
    return torch.where(gamma == 1, image, changed)


def _deviation(image: Tensor) -> Tensor:
    voxels = math.prod(image.shape[2:])
    return image.reshape(*image.shape[:2], voxels).std(dim=2)[:, :, None, None, None]
