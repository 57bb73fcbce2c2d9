"""DeepMedic: two paths of 3³ kernels side by side, the second of which sees a wider, subsampled patch.

Kamnitsas, Ledig, Newcombe, Simpson, Kane, Menon, Rueckert and Glocker, "Efficient multi-scale 3D CNN with
fully connected CRF for accurate brain lesion segmentation", Medical Image Analysis 36, 2017. The residual
connections are those of "DeepMedic for Brain Tumor Segmentation", Brainlesion 2016.

Deviations: the wide patch is subsampled by averaging 3³ voxels, where the paper takes every third of a
smoothed image; no conditional random field follows.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, maps

PATH = (30, 30, 40, 40, 40, 40, 50, 50)
"""Feature maps of a path's convolutions."""
HIDDEN = (150, 150)
"""Feature maps of the 1³ convolutions behind both paths."""
FACTOR = 3
"""By which the second path's image is subsampled."""
SIDE = len(PATH)
"""Voxels that a path's output is smaller than its input, at each side."""
RESIDUAL = (3, 5, 7)
"""Convolutions (counted from 0) whose output the input of the one before is added to."""


class DeepMedic(Network):
    """DeepMedic with two paths.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
        residual: add the input of every second convolution, from the third on, to what comes out.
        dropout: probability in the hidden layers.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        residual: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.normal, self.wide = (Path(in_channels, width, residual) for _ in range(2))
        hidden = [maps(count, width) for count in HIDDEN]
        layers: list[nn.Module] = []
        before = 2 * maps(PATH[-1], width)
        for after in hidden:
            layers += [nn.Conv3d(before, after, 1, bias=False), nn.BatchNorm3d(after), nn.PReLU(after)]
            layers.append(nn.Dropout3d(dropout))
            before = after
        self.head = nn.Sequential(*layers, nn.Conv3d(before, classes, 1))
        margin, edge = FACTOR * SIDE, FACTOR * (2 * SIDE + 1)
        self.form = Form(
            3,
            (edge, edge, edge),
            margin=(margin, margin, margin),
            multiple=(FACTOR, FACTOR, FACTOR),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z + 48, Y + 48, X + 48) to logits (B, classes, Z, Y, X)."""
        middle = cropped(image, FACTOR * SIDE - SIDE)
        coarse = self.wide(functional.avg_pool3d(image, FACTOR))
        context = functional.interpolate(coarse, scale_factor=float(FACTOR), mode="nearest")
        logits: Tensor = self.head(torch.cat([self.normal(middle), context], dim=1))
        return logits


class Path(nn.Module):
    """Eight 3³ convolutions without padding: (B, C, n, n, n) to (B, maps, n - 16, n - 16, n - 16)."""

    def __init__(self, in_channels: int, width: float, residual: bool) -> None:
        super().__init__()
        counts = [in_channels, *(maps(count, width) for count in PATH)]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(before, after, 3, bias=False) for before, after in itertools.pairwise(counts)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(after) for after in counts[1:])
        self.activations = nn.ModuleList(nn.PReLU(after) for after in counts[1:])
        self._residual = RESIDUAL if residual else ()

    def forward(self, features: Tensor) -> Tensor:
        """Features of the voxels in the middle."""
        given = [features]
        layers = zip(self.convolutions, self.norms, self.activations, strict=True)
        for number, (convolution, norm, activation) in enumerate(layers):
            features = norm(convolution(features))
            if number in self._residual:
                features = features + _widened(cropped(given[number - 1], 2), features.shape[1])
            features = activation(features)
            given.append(features)
        return features


def cropped(volume: Tensor, side: int) -> Tensor:
    """A volume (B, C, Z, Y, X) without `side` voxels at each end of each axis."""
    inner = slice(side, -side or None)
    return volume[:, :, inner, inner, inner]


def _widened(features: Tensor, channels: int) -> Tensor:
    """Features with as many maps more, all zero, as there are to be."""
    return functional.pad(features, (0, 0, 0, 0, 0, 0, 0, channels - features.shape[1]))


NETWORK = DeepMedic
