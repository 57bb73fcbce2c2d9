"""The fully convolutional network: a classifier whose last layers are convolutions, its scores upsampled.

Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015: the
variants 32s, 16s and 8s on the trunk of VGG-16.

Deviations: the trunk is not pretrained, so that batch normalisation follows each of its convolutions;
they are padded by what keeps the size, where the paper pads the image by 100; scores are upsampled
linearly, where the paper learns kernels that begin as that; in 3D every kernel has a third axis.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, as_slices, as_volume, maps

TRUNK = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Feature maps of the convolutions before each of the five poolings."""
CLASSIFIER, KERNEL = 4096, 7
"""Maps of the layers that were fully connected, and what the first of them sees."""
STRIDES = (32, 16, 8)


class FCN(Network):
    """The fully convolutional network.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
        dims: 2: slice by slice; 3: volumes.
        stride: of the finest scores that are added: 32 (none but the last), 16 or 8.
        dropout: probability behind each of the two layers that were fully connected.
    """

    small_width = 0.0625

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        dims: Literal[2, 3] = 2,
        stride: Literal[32, 16, 8] = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if dims not in (2, 3) or stride not in STRIDES:
            raise ValueError(f"dims is {dims!r} and stride {stride!r}; they are 2 or 3, and 32, 16 or 8")
        self._dims = dims
        convolution, drop = (nn.Conv2d, nn.Dropout2d) if dims == 2 else (nn.Conv3d, nn.Dropout3d)
        before = in_channels
        self.trunk = nn.ModuleList()
        for counts in TRUNK:
            layers: list[nn.Module] = []
            for count in counts:
                after = maps(count, width)
                layers += _layer(dims, before, after, 3)
                before = after
            self.trunk.append(nn.Sequential(*layers))
        wide = maps(CLASSIFIER, width)
        self.classifier = nn.Sequential(
            *_layer(dims, before, wide, KERNEL), drop(dropout), *_layer(dims, wide, wide, 1), drop(dropout)
        )
        self.score = convolution(wide, classes, 1)
        # Of the fourth pooling at stride 16, then of the third at stride 8.
        added = [maps(TRUNK[level][-1], width) for level in (3, 2)][: STRIDES.index(stride)]
        self.skip_scores = nn.ModuleList(convolution(count, classes, 1) for count in added)
        edge, flat = receptive_field(), dims == 2
        self.form = Form(
            dims, (1 if flat else edge, edge, edge), multiple=(1, 32, 32) if flat else (32, 32, 32)
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        features = as_slices(image) if self._dims == 2 else image
        size, pooled = features.shape[2:], []
        for block in self.trunk:
            features = block(features)
            features = (functional.max_pool2d if self._dims == 2 else functional.max_pool3d)(features, 2)
            pooled.append(features)
        scores: Tensor = self.score(self.classifier(features))
        for score, finer in zip(self.skip_scores, (pooled[3], pooled[2]), strict=False):
            scores = self._upsampled(scores, finer.shape[2:]) + score(finer)
        logits = self._upsampled(scores, size)
        return as_volume(logits, image.shape[0]) if self._dims == 2 else logits

    def _upsampled(self, scores: Tensor, size: tuple[int, ...]) -> Tensor:
        return functional.interpolate(scores, size, mode="bilinear" if self._dims == 2 else "trilinear")


def _layer(dims: int, before: int, after: int, kernel: int) -> list[nn.Module]:
    """A convolution that keeps the size, batch normalisation, ReLU."""
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    return [
        convolution(before, after, kernel, padding=kernel // 2, bias=False),
        norm(after),
        nn.ReLU(inplace=True),
    ]


def receptive_field() -> int:
    """The edge of what a voxel sees: that of the last scores, and of those that it lies between."""
    edge = step = 1
    for counts in TRUNK:
        edge += 2 * len(counts) * step + step
        step *= 2
    edge += (KERNEL - 1) * step
    # Linear interpolation takes from the scores at both sides, at each of the three resolutions.
    return edge + 2 * step + step + step // 2


NETWORK = FCN
