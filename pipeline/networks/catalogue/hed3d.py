"""Holistically nested edge detection in volumes, with a path that expands by mixing layers, for vessels.

Merkow, Kriegman, Marsden and Tu, "Dense Volume-to-Volume Vascular Boundary Detection", MICCAI 2016:
I2I-3D.

Deviations: the trunk is not pretrained, so that batch normalisation follows each convolution; outputs at
coarser scales are upsampled linearly and weigh as much as the finest; it segments regions, not their
boundaries.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, Output, maps

STAGES = ((32, 2), (128, 2), (256, 3), (512, 3))
"""Feature maps and convolutions at each resolution, finest first."""


class HED3D(Network):
    """I2I-3D: in training it gives an output of each scale, the finest first.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
    """

    small_width = 0.125

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        stages = [maps(count, width) for count, _ in STAGES]
        inputs = [in_channels, *stages[:-1]]
        self.trunk = nn.ModuleList(
            nn.Sequential(*(_layer(before if index == 0 else after, after, 3) for index in range(count)))
            for before, after, (_, count) in zip(inputs, stages, STAGES, strict=True)
        )
        finer = stages[-2::-1]
        coarser = [stages[-1], *finer[:-1]]
        # A mixing layer weighs what comes from the trunk against what comes from below, voxel by voxel.
        self.mixing = nn.ModuleList(
            nn.Sequential(_layer(coarse + fine, fine, 1), _layer(fine, fine, 3), _layer(fine, fine, 3))
            for coarse, fine in zip(coarser, finer, strict=True)
        )
        self.scores = nn.ModuleList(nn.Conv3d(each, classes, 1) for each in [stages[-1], *finer])
        step, edge = 2 ** (len(stages) - 1), _receptive_field()
        self.form = Form(
            3, (edge, edge, edge), multiple=(step, step, step), outputs=(Output(),) * len(stages)
        )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X); in training one of each scale."""
        features, skips = image, []
        for level, block in enumerate(self.trunk):
            features = block(functional.max_pool3d(features, 2) if level else features)
            skips.append(features)
        expanded = [skips.pop()]
        for mix in self.mixing:
            skip = skips.pop()
            below = functional.interpolate(expanded[-1], skip.shape[2:], mode="trilinear")
            expanded.append(mix(torch.cat([skip, below], dim=1)))
        if not self.training:
            logits: Tensor = self.scores[-1](expanded[-1])
            return logits
        scales = [score(each) for score, each in zip(self.scores, expanded, strict=True)]
        finest = scales.pop()
        coarser = (functional.interpolate(each, finest.shape[2:], mode="trilinear") for each in scales[::-1])
        return finest, *coarser


def _layer(before: int, after: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm3d(after),
        nn.ReLU(inplace=True),
    )


def _receptive_field() -> int:
    """The edge of what an output voxel sees, its way going down to the coarsest resolution and up again."""
    edge = step = 1
    for level, (_, count) in enumerate(STAGES):
        if level:
            edge += step
            step *= 2
        edge += 2 * count * step
    for _ in STAGES[1:]:
        # Interpolation takes from the voxels at both sides; two convolutions of 3 follow.
        edge += step
        step //= 2
        edge += 4 * step
    return edge


NETWORK = HED3D
