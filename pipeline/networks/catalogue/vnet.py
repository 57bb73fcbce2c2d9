"""The V-Net: a U-Net of volumes with residual stages, 5³ kernels, and strides instead of pooling.

Milletari, Navab and Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
Segmentation", 3DV 2016.

Deviations: any number of channels and classes; the image is brought to the maps of the first stage by a
1³ convolution, where the paper repeats its one channel; batch normalisation before each PReLU, which the
paper does not mention (as in most of its descendants).
"""

import itertools

import torch
from torch import Tensor, nn

from pipeline.networks.base import Form, Network, maps

STAGES = (16, 32, 64, 128, 256)
"""Feature maps at each resolution, finest first."""
DOWN, UP = (1, 2, 3, 3, 3), (3, 3, 2, 1)
"""Convolutions of each stage: on the way down, finest first, and on the way up."""


class VNet(Network):
    """The V-Net.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
    """

    small_width = 0.25

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        stages = [maps(count, width) for count in STAGES]
        self.down = nn.ModuleList(
            Stage(each if level else in_channels, each, count)
            for level, (each, count) in enumerate(zip(stages, DOWN, strict=True))
        )
        self.halve = nn.ModuleList(
            _activated(nn.Conv3d(fine, coarse, 2, 2), coarse) for fine, coarse in itertools.pairwise(stages)
        )
        # Going up, a stage has twice the maps of its resolution: those from below, and the skipped ones.
        finer = stages[-2::-1]
        coarser = [stages[-1], *(2 * each for each in finer[:-1])]
        self.enlarge = nn.ModuleList(
            _activated(nn.ConvTranspose3d(coarse, fine, 2, 2), fine)
            for coarse, fine in zip(coarser, finer, strict=True)
        )
        self.up = nn.ModuleList(
            Stage(2 * fine, 2 * fine, count) for fine, count in zip(finer, UP, strict=True)
        )
        self.head = nn.Conv3d(2 * finer[-1], classes, 1)
        edge = _receptive_field()
        self.form = Form(3, (edge, edge, edge), multiple=(16, 16, 16))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        features = self.down[0](image)
        skips = []
        for halve, stage in zip(self.halve, list(self.down)[1:], strict=True):
            skips.append(features)
            features = stage(halve(features))
        for enlarge, stage in zip(self.enlarge, self.up, strict=True):
            features = stage(torch.cat([enlarge(features), skips.pop()], dim=1))
        logits: Tensor = self.head(features)
        return logits


class Stage(nn.Module):
    """5³ convolutions beside what they were given, which is added to what they make of it."""

    def __init__(self, before: int, after: int, convolutions: int) -> None:
        super().__init__()
        self.identity = nn.Conv3d(before, after, 1) if before != after else nn.Identity()
        inputs = [before, *[after] * (convolutions - 1)]
        layers = [nn.Conv3d(each, after, 5, padding=2) for each in inputs]
        self.layers = nn.Sequential(
            *(_activated(layer, after) for layer in layers[:-1]), layers[-1], nn.BatchNorm3d(after)
        )
        self.activation = nn.PReLU(after)

    def forward(self, features: Tensor) -> Tensor:
        """(B, before, Z, Y, X) to (B, after, Z, Y, X)."""
        activated: Tensor = self.activation(self.layers(features) + self.identity(features))
        return activated


def _activated(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm3d(channels), nn.PReLU(channels))


def _receptive_field() -> int:
    """The edge of what an output voxel sees, counted as in the paper, by way of the coarsest resolution."""
    steps = [2**level for level in range(len(STAGES))]
    convolved = 4 * sum(
        count * step for count, step in (*zip(DOWN, steps, strict=True), *zip(UP, steps[-2::-1], strict=True))
    )
    # A kernel of two sees one voxel more of the finer resolution, on the way down and on the way up.
    strided = 2 * sum(steps[:-1])
    edge: int = 1 + convolved + strided
    return edge


NETWORK = VNet
