"""Intensity transforms of a batch of normalised images: noise, blur, brightness, contrast, gamma."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

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
        read = _read_at_once if whole else _read_on_cpu
        return (image + read(values, start, image.shape) * _wide(deviation),)

    amount, start, sigma = drawn.noise, drawn.noise_start, drawn.blur
    (image,) = apply_to_chosen(noisy, (image,), (amount, start), amount > 0, whole)
    (image,) = apply_to_chosen(_blurred, (image,), (sigma,), sigma > 0, whole)
    levels = drawn.brightness, drawn.contrast
    chosen = (drawn.brightness != 0) | (drawn.contrast != 1)
    (image,) = apply_to_chosen(_levelled, (image,), levels, chosen, whole)
    (image,) = apply_to_chosen(_curved, (image,), (drawn.gamma,), drawn.gamma != 1, whole)
    return image


def _read_at_once(values: Tensor, start: Tensor, shape: torch.Size) -> Tensor:
    """Values (B, ...) from `start` (B,) on, and again from the first after the last."""
    place = (start[:, None] + torch.arange(math.prod(shape[1:]), device=start.device)) % NOISE
    return values[place].view(shape)


def _read_on_cpu(values: Tensor, start: Tensor, shape: torch.Size) -> Tensor:
    """As `_read_at_once`, in the way that is quick on a CPU."""
    voxels = math.prod(shape[1:])
    around = values.repeat(1 + -(-voxels // NOISE)) if int(start.max()) + voxels > NOISE else values
    return torch.stack([around[first : first + voxels] for first in start.tolist()]).view(shape)


def _blurred(image: Tensor, sigma: Tensor) -> tuple[Tensor]:
    """Gaussian blur with a sigma of its own for each element, axis by axis as a product of matrices."""
    z, y, x = (_blurring(edge, sigma) for edge in image.shape[2:])
    image = (z[:, None] @ image.flatten(3)).view_as(image)
    return (y[:, None, None] @ image @ x[:, None, None].mT,)


def _blurring(edge: int, sigma: Tensor) -> Tensor:
    """Matrices (B, edge, edge): how much of each voxel of a line is in each of the blurred line."""
    places = torch.arange(-BLUR_RADIUS, edge + BLUR_RADIUS, device=sigma.device)
    offsets = places - torch.arange(edge, device=sigma.device)[:, None]
    # An element that is not blurred has a sigma of 0 here, and is thrown away.
    shares = (-0.5 * (offsets / sigma.clamp_min(0.1)[:, None, None]) ** 2).exp() * (
        offsets.abs() <= BLUR_RADIUS
    )
    shares = shares / shares.sum(dim=2, keepdim=True)
    # Outside, the edge is repeated.
    inner = shares[:, :, BLUR_RADIUS:-BLUR_RADIUS].clone()
    inner[:, :, 0] += shares[:, :, :BLUR_RADIUS].sum(dim=2)
    inner[:, :, -1] += shares[:, :, -BLUR_RADIUS:].sum(dim=2)
    return inner


def _levelled(image: Tensor, brightness: Tensor, contrast: Tensor) -> tuple[Tensor]:
    """Brightness added, and contrast changed about the mean."""
    mean = image.mean(dim=(2, 3, 4), keepdim=True)
    return (image + ((image - mean) * (_wide(contrast) - 1) + _wide(brightness)),)


def _curved(image: Tensor, gamma: Tensor) -> tuple[Tensor]:
    """Power-law curve over the range of each element; mean and deviation stay as they were."""
    low = image.amin(dim=(2, 3, 4), keepdim=True)
    width = (image.amax(dim=(2, 3, 4), keepdim=True) - low).clamp_min(1e-6)
    curved = ((image - low) / width).clamp_min(1e-7) ** _wide(gamma)
    mean = image.mean(dim=(2, 3, 4), keepdim=True)
    centred = curved - curved.mean(dim=(2, 3, 4), keepdim=True)
    scale = _deviation(image - mean) / _deviation(centred).clamp_min(1e-6)
    return (centred * scale + mean,)


def _deviation(centred: Tensor) -> Tensor:
    """Of values (B, C, Z, Y, X) whose mean is 0, (B, C, 1, 1, 1)."""
    voxels = math.prod(centred.shape[2:])
    return (centred.square().sum(dim=(2, 3, 4), keepdim=True) / max(1, voxels - 1)).sqrt()


def _wide(strength: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1, 1)."""
    return strength[:, None, None, None, None]
