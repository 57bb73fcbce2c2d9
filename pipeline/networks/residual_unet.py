"""A U-Net with residual blocks in its encoder, small by default.

The form of nnU-Net's residual-encoder U-Net (Isensee et al., MICCAI 2024) with one residual block
a resolution in the encoder and one convolution in the decoder: what a step costs on a CPU is spent
at the finest resolution, and a heavy decoder there buys little.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SLOPE = 0.01


class ResidualUNet(nn.Module):
    """Encoder, decoder and one head.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        channels: feature maps at each resolution, finest first.
        strides: of each resolution against the one before, (z, y, x).
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        channels: Sequence[int],
        strides: Sequence[tuple[int, int, int]],
    ) -> None:
        super().__init__()
        inputs = [in_channels, *channels[:-1]]
        self.encoder = nn.ModuleList(
            ResidualBlock(before, after, stride)
            for before, after, stride in zip(inputs, channels, strides, strict=True)
        )
        coarser = list(zip(channels[1:], channels[:-1], strides[1:], strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(deep, fine, stride, stride) for deep, fine, stride in coarser
        )
        self.decoder = nn.ModuleList(ConvBlock(2 * fine, fine) for _, fine, _ in coarser)
        self.head = nn.Conv3d(channels[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        features, skips = image, []
        for block in self.encoder:
            features = block(features)
            skips.append(features)
        features = skips.pop()
        for up, block in zip(reversed(self.up), reversed(self.decoder), strict=True):
            features = block(torch.cat([up(features), skips.pop()], dim=1))
        logits: Tensor = self.head(features)
        return logits


class ConvBlock(nn.Sequential):
    """3³ convolution, instance normalisation, leaky ReLU."""

    def __init__(self, before: int, after: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__(
            nn.Conv3d(before, after, 3, stride, padding=1, bias=False),
            nn.InstanceNorm3d(after, affine=True),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity, which is pooled and projected where the shape changes."""

    def __init__(self, before: int, after: int, stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.first = ConvBlock(before, after, stride)
        self.second = nn.Sequential(
            nn.Conv3d(after, after, 3, padding=1, bias=False), nn.InstanceNorm3d(after, affine=True)
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
