"""A U-Net with residual blocks in its encoder, small by default.

The form of nnU-Net's residual-encoder U-Net (Isensee et al., MICCAI 2024) with one residual block
a resolution in the encoder and one convolution in the decoder: what a step costs on a CPU is spent
at the finest resolution, and a heavy decoder there buys little.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.base import Form, Index, Network, Output
from pipeline.networks.strides import plan_kernels, plan_strides

SLOPE = 0.01


# The finest resolution costs most, and eight maps there are what a CPU's vector registers hold.
SMALL = (8, 32, 64, 128)
FULL = (32, 64, 128, 256, 320, 320)
CUBE = (3, 3, 3)


class ResidualUNet(Network):
    """Encoder, decoder and one head; with `deep_supervision`, one at each resolution of the decoder.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        channels: feature maps at each resolution, finest first.
        strides: of each resolution against the one before, (z, y, x); the first is (1, 1, 1). By default each
            halves the one before.
        kernels: of each resolution, (z, y, x); by default all are 3³.
        deep_supervision: coarser resolutions of the decoder are judged, too, each by half the weight of the
            finer one (as in nnU-Net).
    """

    # No axis falls below four voxels, where the gradients are right.
    bfloat16_on_cpu = True

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        channels: Sequence[int] = FULL,
        strides: Sequence[Sequence[int]] = (),
        kernels: Sequence[Sequence[int]] = (),
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if min(channels, default=0) < 1:
            raise ValueError("channels are feature maps at each resolution, one or more of them")
        steps = [_index(step) for step in strides] or [(1, 1, 1), *[(2, 2, 2)] * (len(channels) - 1)]
        if steps[0] != (1, 1, 1) or min(min(step) for step in steps) < 1:
            raise ValueError("strides begin with 1, 1, 1, and none is below 1")
        sizes = [_index(kernel) for kernel in kernels] or [CUBE] * len(channels)
        self.form = Form(
            3,
            receptive_field=_receptive_field(steps, sizes),
            multiple=_index(math.prod(axis) for axis in zip(*steps, strict=True)),
            outputs=tuple(Output(0.5**level) for level in range(max(1, len(channels) - 1)))
            if deep_supervision
            else (Output(),),
        )
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            ResidualBlock(before, after, kernel, stride)
            for before, after, kernel, stride in zip(inputs, channels, sizes, steps, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(deep, fine, stride, stride)
            for deep, fine, stride in zip(channels[1:], channels[:-1], steps[1:], strict=True)
        )
        self.decoder = nn.ModuleList(
            ConvBlock(2 * fine, fine, kernel) for fine, kernel in zip(channels[:-1], sizes[:-1], strict=True)
        )
        self.head = nn.Conv3d(channels[0], classes, 1)
        self.coarser_heads = nn.ModuleList(
            nn.Conv3d(maps, classes, 1) for maps in channels[1 : len(self.form.outputs)]
        )

    @classmethod
    def plan(
        cls, options: Mapping[str, Any], patch_size: Index, spacing: Sequence[float], small: bool
    ) -> dict[str, Any]:
        """Maps by the profile, resolutions by how often the patch halves, the others by the spacing."""
        maps = SMALL if small else FULL
        # As many resolutions as one of these is given for; else as many as make the patch smaller.
        given = [len(options[key]) for key in ("channels", "strides", "kernels") if key in options]
        strides = plan_strides(patch_size, spacing, given[0] if given else len(maps))
        if not given:
            strides = strides[:1] + [stride for stride in strides[1:] if max(stride) > 1]
        strides = options.get("strides", strides)
        channels = [maps[min(level, len(maps) - 1)] for level in range(len(strides))]
        kernels = plan_kernels(spacing, strides)
        planned = {"channels": channels, "strides": strides, "kernels": kernels, "deep_supervision": True}
        return planned | dict(options)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X), and coarser ones in deep supervision."""
        features, skips = image, []
        for block in self.encoder:
            features = block(features)
            skips.append(features)
        features = skips.pop()
        decoded = [features]
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            features = block(torch.cat([up(features), skips.pop()], dim=1))
            decoded.append(features)
        logits: Tensor = self.head(features)
        if not (self.training and len(self.coarser_heads)):
            return logits
        coarser = zip(self.coarser_heads, decoded[-2::-1], strict=False)
        return logits, *(head(maps) for head, maps in coarser)


class ConvBlock(nn.Sequential):
    """Convolution, instance normalisation, leaky ReLU."""

    def __init__(self, before: int, after: int, kernel: Index, stride: Index = (1, 1, 1)) -> None:
        super().__init__(
            nn.Conv3d(before, after, kernel, stride, _same(kernel), bias=False),
            nn.InstanceNorm3d(after, affine=True),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity, which is pooled and projected where the shape changes."""

    def __init__(self, before: int, after: int, kernel: Index, stride: Index) -> None:
        super().__init__()
        self.first = ConvBlock(before, after, kernel, stride)
        self.second = nn.Sequential(
            nn.Conv3d(after, after, kernel, padding=_same(kernel), bias=False),
            nn.InstanceNorm3d(after, affine=True),
        )
        self.identity = nn.Sequential(
            nn.AvgPool3d(stride, stride) if max(stride) > 1 else nn.Identity(),
            nn.Conv3d(before, after, 1, bias=False) if before != after else nn.Identity(),
        )
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, before, Z, Y, X) to (B, after, Z', Y', X')."""
        activated: Tensor = self.activation(self.second(self.first(features)) + self.identity(features))
        return activated


def _index(numbers: Iterable[int]) -> Index:
    z, y, x = numbers
    return int(z), int(y), int(x)


def _same(kernel: Index) -> Index:
    """The padding by which a convolution gives as many voxels as it is given.

    Raises:
        ValueError: there is none.
    """
    if not all(edge % 2 for edge in kernel):
        raise ValueError(f"kernels have odd edges, not {kernel}")
    return _index(edge // 2 for edge in kernel)


def _receptive_field(steps: Sequence[Index], kernels: Sequence[Index]) -> Index:
    """Of an output voxel, whose farthest way is down to the coarsest resolution and up again."""
    sides = [0, 0, 0]
    for axis in range(3):
        size = 1
        reach = [kernel[axis] // 2 for kernel in kernels]
        for step, far in zip(steps, reach, strict=True):
            # Two convolutions; the first of them strides.
            sides[axis] += far * size
            size *= step[axis]
            sides[axis] += far * size
        for step, far in zip(reversed(steps[1:]), reversed(reach[:-1]), strict=True):
            # A convolution at the resolution above, of what was put together there.
            sides[axis] += size - size // step[axis]
            size //= step[axis]
            sides[axis] += far * size
    return _index(2 * side + 1 for side in sides)


NETWORK = ResidualUNet
