"""A fully convolutional residual network of 50 layers whose scores at three resolutions are fused.

Yu, Chen, Dou, Qin and Heng, "Automated Melanoma Recognition in Dermoscopy Images via Very Deep Residual
Networks", IEEE Transactions on Medical Imaging 36, 2017, on the residual network of He, Zhang, Ren and
Sun, CVPR 2016.

Deviations: the trunk is not pretrained; scores are upsampled linearly, where the paper has
deconvolutions; in 3D every kernel has a third axis.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, as_slices, as_volume, maps

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
"""Inner feature maps and number of the bottleneck blocks at strides 4, 8, 16 and 32."""
FIRST, WIDER = 64, 4
"""Maps of the first convolution; how many more come out of a block than it has inside."""
FUSED = 3
"""The deepest stages, whose scores are fused."""


class FCRN(Network):
    """The fully convolutional residual network.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
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
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        first = maps(FIRST, width)
        self.first = nn.Sequential(
            *_normalised(dims, in_channels, first, 7, 2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1) if dims == 2 else nn.MaxPool3d(3, 2, 1),
        )
        before = first
        self.stages, self.scores = nn.ModuleList(), nn.ModuleList()
        for level, (inner, blocks) in enumerate(STAGES):
            inside = maps(inner, width)
            after = WIDER * inside
            self.stages.append(
                nn.Sequential(
                    Bottleneck(dims, before, inside, after, 2 if level else 1),
                    *(Bottleneck(dims, after, inside, after, 1) for _ in range(blocks - 1)),
                )
            )
            before = after
            if level >= len(STAGES) - FUSED:
                self.scores.append(convolution(after, classes, 1))
        edge, flat = _receptive_field(), dims == 2
        self.form = Form(
            dims, (1 if flat else edge, edge, edge), multiple=(1, 32, 32) if flat else (32, 32, 32)
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        features, found = as_slices(image) if self._dims == 2 else image, []
        size = features.shape[2:]
        features = self.first(features)
        for stage in self.stages:
            features = stage(features)
            found.append(features)
        scores = [score(each) for score, each in zip(self.scores, found[-FUSED:], strict=True)]
        fused = scores.pop()
        while scores:
            finer = scores.pop()
            fused = self._upsampled(fused, finer.shape[2:]) + finer
        logits = self._upsampled(fused, size)
        return as_volume(logits, image.shape[0]) if self._dims == 2 else logits

    def _upsampled(self, scores: Tensor, size: tuple[int, ...]) -> Tensor:
        return functional.interpolate(scores, size, mode="bilinear" if self._dims == 2 else "trilinear")


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 beside an identity, which is projected where the shape changes."""

    def __init__(self, dims: int, before: int, inside: int, after: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normalised(dims, before, inside, 1),
            nn.ReLU(inplace=True),
            *_normalised(dims, inside, inside, 3, stride),
            nn.ReLU(inplace=True),
            *_normalised(dims, inside, after, 1),
        )
        same = before == after and stride == 1
        self.identity = nn.Sequential(*(() if same else _normalised(dims, before, after, 1, stride)))
        self.activation = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Features of the next layer."""
        summed: Tensor = self.activation(self.layers(features) + self.identity(features))
        return summed


def _normalised(dims: int, before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d if dims == 2 else nn.Conv3d
    norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
    return [convolution(before, after, kernel, stride, kernel // 2, bias=False), norm(after)]


def _receptive_field() -> int:
    """The edge of what an output voxel sees by way of the deepest scores, between two of which it lies."""
    edge, step = 1 + 6, 2
    edge += 2 * step
    step *= 2
    for level, (_, blocks) in enumerate(STAGES):
        for block in range(blocks):
            edge += 2 * step
            step *= 2 if level and not block else 1
    # The interpolations from stride 32 to 16, to 8, and to 1.
    return edge + step + step // 2 + step // 4


NETWORK = FCRN
