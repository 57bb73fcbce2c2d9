"""Networks by name, one family a file.

A network maps (B, C, Z, Y, X) to logits (B, classes, Z, Y, X) of the same size, where each edge is
a multiple of the product of its strides. `build_network` finds the class that a name stands for
and imports its file alone.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from torch import nn

Stride = tuple[int, int, int]

NETWORKS = {"residual_unet": ("pipeline.networks.residual_unet", "ResidualUNet")}


def build_network(
    name: str, in_channels: int, classes: int, channels: Sequence[int], strides: Sequence[Stride]
) -> "nn.Module":
    """Build the network called `name`, weights drawn from torch's generator.

    Args:
        name: one of `NETWORKS`.
        in_channels: of the image.
        classes: of the logits, background included.
        channels: feature maps at each resolution, finest first.
        strides: of each resolution against the one before, (z, y, x); the first is (1, 1, 1).

    Raises:
        ParamsError: there is no network of that name.
    """
    if name not in NETWORKS:
        raise ParamsError(f"train.network.name is '{name}'; there is: {', '.join(sorted(NETWORKS))}.")
    module, network = NETWORKS[name]
    built: nn.Module = getattr(importlib.import_module(module), network)(
        in_channels, classes, channels, strides
    )
    return built


def plan_strides(patch_size: Sequence[int], spacing: Sequence[float], levels: int) -> list[Stride]:
    """Strides for `levels` resolutions: axes are halved once they are no coarser than the finest.

    Thick slices are not halved before the plane has come near them, and no axis falls below four
    voxels; one that cannot be halved any more does not hold back the others (after nnU-Net:
    Isensee et al., Nature Methods 2021).

    Args:
        patch_size: (z, y, x) voxels.
        spacing: (z, y, x) millimetres.
        levels: number of resolutions.
    """
    strides: list[Stride] = [(1, 1, 1)]
    size, millimetres = list(patch_size), list(spacing)
    for _ in range(levels - 1):
        divisible = [edge % 2 == 0 and edge >= 8 for edge in size]
        finest = min((step for step, can in zip(millimetres, divisible, strict=True) if can), default=0.0)
        z, y, x = (
            2 if can and step < 2 * finest else 1 for step, can in zip(millimetres, divisible, strict=True)
        )
        strides.append((z, y, x))
        size = [edge // stride for edge, stride in zip(size, (z, y, x), strict=True)]
        millimetres = [step * stride for step, stride in zip(millimetres, (z, y, x), strict=True)]
    return strides
