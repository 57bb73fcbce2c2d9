"""VoxResNet: a residual network of 25 layers for volumes, judged at four depths.

Chen, Dou, Yu, Qin and Heng, "VoxResNet: Deep voxelwise residual networks for brain segmentation from 3D
MR images", NeuroImage 170, 2018.

Deviations: the auxiliary classifiers weigh as much as their sum, where the paper lets their weight fall
as training goes on. Channels are modalities, as in the paper; the maps of its auto-context would be
channels too.
"""

import torch
from torch import Tensor, nn

from pipeline.networks.base import Form, Network, Output, maps

FIRST, LATER = 32, 64
"""Feature maps at the resolution of the image, and below."""
REDUCTIONS = 3
"""Each halves the resolution."""


class VoxResNet(Network):
    """VoxResNet: in training it gives the sum of its four classifiers, then each.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
    """

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        first, later = maps(FIRST, width), maps(LATER, width)
        self.first = nn.Sequential(
            nn.Conv3d(in_channels, first, 3, padding=1),
            *_activation(first),
            nn.Conv3d(first, first, 3, padding=1),
        )
        self.deeper = nn.ModuleList(
            nn.Sequential(
                *_activation(first if level == 0 else later),
                nn.Conv3d(first if level == 0 else later, later, 3, 2, padding=1),
                VoxRes(later),
                VoxRes(later),
            )
            for level in range(REDUCTIONS)
        )
        self.classifiers = nn.ModuleList(
            _classifier(later if level else first, classes, 2**level) for level in range(REDUCTIONS + 1)
        )
        step, edge = 2**REDUCTIONS, _receptive_field()
        outputs = (Output(),) * (2 + REDUCTIONS)
        self.form = Form(3, (edge, edge, edge), multiple=(step, step, step), outputs=outputs)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X); in training five of them."""
        features = [self.first(image)]
        for block in self.deeper:
            features.append(block(features[-1]))
        each = [one(given) for one, given in zip(self.classifiers, features, strict=True)]
        fused = torch.stack(each).sum(0)
        return (fused, *each) if self.training else fused


class VoxRes(nn.Module):
    """Two convolutions, normalised and activated before each, whose result is added to what was given."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_activation(channels),
            nn.Conv3d(channels, channels, 3, padding=1),
            *_activation(channels),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, Z, Y, X) to the same."""
        added: Tensor = features + self.layers(features)
        return added


def _activation(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm3d(channels), nn.ReLU()


def _classifier(channels: int, classes: int, factor: int) -> nn.Sequential:
    """Brings features to the resolution of the image and scores them."""
    enlarge: nn.Module = (
        nn.Conv3d(channels, channels, 3, padding=1)
        if factor == 1
        else nn.ConvTranspose3d(channels, channels, factor, factor)
    )
    return nn.Sequential(*_activation(channels), enlarge, nn.Conv3d(channels, classes, 1))


def _receptive_field() -> int:
    """The edge of what an output voxel sees by way of the deepest classifier."""
    edge, step = 1 + 2 * 2, 1
    for _ in range(REDUCTIONS):
        edge += 2 * step
        step *= 2
        edge += 4 * 2 * step
    return edge


NETWORK = VoxResNet
