"""Intensity transforms of a batch of normalised images: noise, blur, brightness, contrast, gamma."""

import math
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.augmentation.chosen import apply_to_chosen
from pipeline.params import AugmentParams

BLUR_RADIUS = 3
"""Voxels; three deviations of the widest blur that is allowed."""
NOISE = 2**22
"""Values of Gaussian noise that are made once; an element reads on from a place of its own."""
STEPS = ("noise", "blur", "brightness", "contrast", "gamma")


@dataclass(frozen=True)
class IntensityDraw:
    """For each element of a batch, (B,): the strength of each step; the neutral value switches it off."""

    noise: Tensor
    """Deviation; 0 is off."""
    noise_start: Tensor
    """Where in the noise of `noise_values` the element begins, int64."""
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
        noise_start=torch.randint(NOISE, (shape[0],), generator=generator),
        blur=strength(params.blur_sigma, 0.0),
        brightness=strength(params.brightness, 0.0),
        contrast=strength(params.contrast, 1.0),
        gamma=strength(params.gamma, 1.0),
    )


@lru_cache(maxsize=4)
def noise_values(device: torch.device) -> Tensor:
    """Gaussian noise (NOISE,), mean 0 and deviation 1, the same on every device."""
    return torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).to(device)


def apply_intensity(
    image: Tensor, drawn: IntensityDraw, noise: Tensor | None = None, whole: bool = False
) -> Tensor:
    """Apply the steps to image (B, C, Z, Y, X), in the order of `STEPS`.

    Args:
        image: on any device.
        drawn: on the same device.
        noise: `noise_values` of that device; None: they are looked up.
        whole: as `apply_to_chosen` has it.
    """
    values = noise_values(image.device) if noise is None else noise

    def noisy(image: Tensor, deviation: Tensor, start: Tensor) -> tuple[Tensor]:
        return (_noisy(image, deviation, start, values),)

    amount, start, sigma = drawn.noise, drawn.noise_start, drawn.blur
    (image,) = apply_to_chosen(noisy, (image,), (amount, start), amount > 0, whole)
    (image,) = apply_to_chosen(_blurred, (image,), (sigma,), sigma > 0, whole)
    brightness, contrast = _wide(drawn.brightness), _wide(drawn.contrast)
    mean = image.mean(dim=(2, 3, 4), keepdim=True)
    # Written as a change, so that an element which is not chosen keeps every bit.
    image = image + ((image - mean) * (contrast - 1) + brightness)
    (image,) = apply_to_chosen(_curved, (image,), (drawn.gamma,), drawn.gamma != 1, whole)
    return image


def _noisy(image: Tensor, deviation: Tensor, start: Tensor, values: Tensor) -> Tensor:
    """Gaussian noise added; values are read from `start` on, and again from the first after the last."""
    voxels = math.prod(image.shape[1:])
    place = (start[:, None] + torch.arange(voxels, device=image.device)) % NOISE
    return image + values[place].view_as(image) * _wide(deviation)


def _blurred(image: Tensor, sigma: Tensor) -> tuple[Tensor]:
    """Gaussian blur, axis by axis, with a sigma of its own for each element."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=image.device)
    # An element that is not blurred has a sigma of 0 here, and is thrown away.
    kernel = (-0.5 * (offsets / sigma.clamp_min(0.1)[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(image)[:, :, None, None, None, None]
    for axis in (2, 3, 4):
        sides = [0] * 6
        sides[2 * (4 - axis)] = sides[2 * (4 - axis) + 1] = BLUR_RADIUS
        padded = functional.pad(image, sides, mode="replicate")
        length = image.shape[axis]
        shifted = (kernel[:, k] * padded.narrow(axis, k, length) for k in range(len(offsets)))
        image = reduce(torch.add, shifted)
    return (image,)


def _curved(image: Tensor, gamma: Tensor) -> tuple[Tensor]:
    """Power-law curve over the range of each element; mean and deviation stay as they were."""
    low = image.amin(dim=(2, 3, 4), keepdim=True)
    width = (image.amax(dim=(2, 3, 4), keepdim=True) - low).clamp_min(1e-6)
    curved = ((image - low) / width).clamp_min(1e-7) ** _wide(gamma)
    centred = curved - curved.mean(dim=(2, 3, 4), keepdim=True)
    scale = _deviation(image) / _deviation(curved).clamp_min(1e-6)
    return (centred * scale + image.mean(dim=(2, 3, 4), keepdim=True),)


def _deviation(image: Tensor) -> Tensor:
    voxels = math.prod(image.shape[2:])
    return image.reshape(*image.shape[:2], voxels).std(dim=2)[:, :, None, None, None]


def _wide(strength: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1, 1)."""
    return strength[:, None, None, None, None]
