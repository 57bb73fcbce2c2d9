"""The augmentation policy: what is drawn, drawn apart from being applied.

`draw` decides everything random about a batch on the CPU, from a generator that is passed in, so
that a draw can be logged, replayed and tested, and a GPU gets the very same one. `apply` does the
work on the device of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pipeline.augmentation.intensity import IntensityDraw, apply_intensity, draw_intensity
from pipeline.augmentation.spatial import SpatialDraw, apply_spatial, draw_spatial
from pipeline.params import AugmentParams


@dataclass(frozen=True)
class Draw:
    """Everything random about one batch."""

    spatial: SpatialDraw
    intensity: IntensityDraw

    def each(self, change: Callable[[Tensor], Tensor]) -> "Draw":
        """A draw of what `change` makes of each tensor (B, ...) of this one."""
        spatial, intensity = (
            {field.name: change(getattr(part, field.name)) for field in fields(part)}
            for part in (self.spatial, self.intensity)
        )
        return Draw(SpatialDraw(**spatial), IntensityDraw(**intensity))

    def elements(self, first: int, count: int) -> "Draw":
        """That of `count` elements of the batch, from `first` on."""
        return self.each(lambda tensor: tensor[first : first + count])


def draw(
    params: AugmentParams,
    shape: tuple[int, int, int, int, int],
    spacing: tuple[float, ...],
    generator: torch.Generator,
) -> Draw:
    """Draw for a batch.

    Args:
        params: ranges and probabilities.
        shape: of the images, (B, C, Z, Y, X).
        spacing: millimetres, (z, y, x).
        generator: on the CPU.
    """
    return Draw(draw_spatial(params, shape, spacing, generator), draw_intensity(params, shape, generator))


def apply(
    image: Tensor, label: Tensor, drawn: Draw, noise: Tensor | None = None, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """Transform a batch: image (B, C, Z, Y, X) float32 and label (B, Z, Y, X) move together.

    Intensities are expected to be normalised (mean near 0, deviation near 1).

    Args:
        image: on any device.
        label: on the same device, class indices.
        drawn: on the same device.
        noise: `noise_values` of that device; None: they are looked up.
        whole: transform all elements and throw away what was not drawn for, as suits a GPU.
    """
    if not whole and len(image) > 1:
        # One by one, an element is still in the cache when its next transform comes.
        each = [
            apply(image[one : one + 1], label[one : one + 1], drawn.elements(one, 1), noise)
            for one in range(len(image))
        ]
        images, labels = zip(*each, strict=True)
        return torch.cat(images), torch.cat(labels)
    image, label = apply_spatial(image, label, drawn.spatial, whole)
    return apply_intensity(image, drawn.intensity, noise, whole), label
