"""A V-Net of dense feature stacks with dilated kernels, which needs little memory and sees far.

Gibson, Giganti, Hu, Bonmati, Bandula, Gurusamy, Davidson, Pereira, Clarkson and Barratt, "Automatic
Multi-Organ Segmentation on Abdominal CT with Dense V-Networks", IEEE Transactions on Medical Imaging 37,
2018.

Deviations: the dilations of a stack take turns (1, 2, 4), as the paper's own are not known to us; dropout
of whole channels is left out; the spatial prior is that of a patch, as this engine trains on patches, not
on whole bodies.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, maps

FIRST = 24
"""Feature maps of the first convolution, which halves the resolution."""
STACKS = ((4, 5, 12), (8, 10, 24), (16, 10, 24))
"""Of each resolution: maps that a layer adds, layers, and maps that are handed on to the end."""
DILATIONS = (1, 2, 4)
PRIOR = 12
"""Edge of the spatial prior."""


class DenseVNet(Network):
    """The dense V-network.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
        prior: learn how likely each class is in each place of a patch, and add it to the logits.
    """

    small_width = 0.5

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0, prior: bool = True) -> None:
        super().__init__()
        before = maps(FIRST, width)
        self.first = _layer(in_channels, before, kernel=5, stride=2)
        self.stacks, self.down, self.handed = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        joined = 0
        for level, (growth, layers, skip) in enumerate(STACKS):
            stack = DenseStack(before, maps(growth, width, least=2), layers)
            self.stacks.append(stack)
            self.handed.append(_layer(stack.channels, maps(skip, width)))
            joined += maps(skip, width)
            if level < len(STACKS) - 1:
                before = maps(FIRST, width)
                self.down.append(_layer(stack.channels, before, stride=2))
        self.head = nn.Conv3d(joined, classes, 3, padding=1)
        self.prior = nn.Parameter(torch.zeros(1, classes, *[PRIOR] * 3)) if prior else None
        step, edge = 2 ** len(STACKS), _receptive_field()
        self.form = Form(3, (edge, edge, edge), multiple=(step, step, step))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        features, handed = self.first(image), []
        size = features.shape[2:]
        for level, (stack, hand) in enumerate(zip(self.stacks, self.handed, strict=True)):
            features = stack(self.down[level - 1](features) if level else features)
            handed.append(_resized(hand(features), size))
        logits: Tensor = self.head(torch.cat(handed, dim=1))
        if self.prior is not None:
            logits = logits + _resized(self.prior, size)
        return _resized(logits, image.shape[2:])


class DenseStack(nn.Module):
    """Layers of which each sees what was given and what all before it found; all they found comes out."""

    def __init__(self, before: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _layer(before + index * growth, growth, dilation=DILATIONS[index % len(DILATIONS)])
            for index in range(layers)
        )
        self.channels = growth * layers

    def forward(self, features: Tensor) -> Tensor:
        """(B, before, Z, Y, X) to (B, channels, Z, Y, X)."""
        found = [features]
        for layer in self.layers:
            found.append(layer(torch.cat(found, dim=1)))
        return torch.cat(found[1:], dim=1)


def _layer(before: int, after: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv3d(before, after, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm3d(after),
        nn.ReLU(inplace=True),
    )


def _resized(features: Tensor, size: tuple[int, ...]) -> Tensor:
    return (
        functional.interpolate(features, size, mode="trilinear") if features.shape[2:] != size else features
    )


def _receptive_field() -> int:
    """The edge of what an output voxel sees by way of the deepest stack."""
    edge, step = 1 + 4, 2
    for level, (_, layers, _) in enumerate(STACKS):
        if level:
            edge += 2 * step
            step *= 2
        edge += 2 * step * sum(DILATIONS[index % len(DILATIONS)] for index in range(layers))
    # The layer that hands on, the interpolations to half the resolution and to the whole, the head between.
    return edge + 2 * step + step + 2 * 2 + 2


NETWORK = DenseVNet
