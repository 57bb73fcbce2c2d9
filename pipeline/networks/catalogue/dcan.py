"""The deep contour-aware network: objects and their contours from one trunk, so that touching objects part.

Chen, Qi, Yu, Dou, Qin and Heng, "DCAN: Deep contour-aware networks for object instance segmentation from
histology images", Medical Image Analysis 36, 2017.

Deviations: the trunk is not pretrained, so that batch normalisation follows each convolution; it has five
resolutions; scores are upsampled linearly; where the paper takes thresholds of both maps, a class is as
likely as it is and no contour there.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, Output, as_slices, as_volume, maps

STAGES = (64, 128, 256, 512, 512)
"""Feature maps at each resolution, finest first."""
JUDGED = 3
"""The deepest resolutions, whose scores are added up, and each of which has an auxiliary classifier."""
AUXILIARY = 0.3
"""Weight of an auxiliary classifier."""


class DCAN(Network):
    """In training: objects, contours, and the objects of the auxiliary classifiers; else both fused.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above.
        dims: 2: slice by slice, as in the paper; 3: volumes.
    """

    small_width = 0.125

    def __init__(
        self, in_channels: int, classes: int, *, width: float = 1.0, dims: Literal[2, 3] = 2
    ) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise ValueError(f"dims is {dims!r}, not 2 or 3")
        self._dims = dims
        stages = [maps(count, width) for count in STAGES]
        inputs = [in_channels, *stages[:-1]]
        self.trunk = nn.ModuleList(
            _double(dims, before, after) for before, after in zip(inputs, stages, strict=True)
        )
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.objects, self.contours = (
            nn.ModuleList(convolution(count, results, 1) for count in stages[-JUDGED:])
            for results in (classes, 2)
        )
        step, edge, flat = 2 ** (len(stages) - 1), _receptive_field(), dims == 2
        outputs = (Output(), Output(1.0, "contour"), *[Output(AUXILIARY)] * JUDGED)
        self.form = Form(
            dims,
            (1 if flat else edge, edge, edge),
            multiple=(1 if flat else step, step, step),
            outputs=outputs,
        )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X); in training contours (B, 2, …), too."""
        features, found = as_slices(image) if self._dims == 2 else image, []
        size = features.shape[2:]
        pool = functional.max_pool2d if self._dims == 2 else functional.max_pool3d
        for level, block in enumerate(self.trunk):
            features = block(pool(features, 2) if level else features)
            found.append(features)
        objects, contours = (
            [
                self._full(head(given), size, image.shape[0])
                for head, given in zip(heads, found[-JUDGED:], strict=True)
            ]
            for heads in (self.objects, self.contours)
        )
        whole, contour = torch.stack(objects).sum(0), torch.stack(contours).sum(0)
        return (whole, contour, *objects) if self.training else fused(whole, contour)

    def _full(self, scores: Tensor, size: tuple[int, ...], batch: int) -> Tensor:
        mode = "bilinear" if self._dims == 2 else "trilinear"
        scores = functional.interpolate(scores, size, mode=mode)
        return as_volume(scores, batch) if self._dims == 2 else scores


def fused(objects: Tensor, contours: Tensor) -> Tensor:
    """Logits in which a voxel is of an object only if it is not of a contour.

    Args:
        objects: (B, classes, Z, Y, X).
        contours: (B, 2, Z, Y, X), of no contour and of a contour.

    Returns:
        (B, classes, Z, Y, X): to each class but the background the logarithm of the probability of no
        contour is added.
    """
    none = functional.logsigmoid(contours[:, :1] - contours[:, 1:])
    return torch.cat([objects[:, :1], objects[:, 1:] + none], dim=1)


def _double(dims: int, before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    layers: list[nn.Module] = []
    for given in (before, after):
        layers += [convolution(given, after, 3, padding=1, bias=False), norm(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _receptive_field() -> int:
    """The edge of what an output voxel sees by way of the deepest scores, between two of which it lies."""
    edge = step = 1
    for level in range(len(STAGES)):
        if level:
            edge += step
            step *= 2
        edge += 4 * step
    return edge + step


NETWORK = DCAN
