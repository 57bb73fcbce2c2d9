"""The 3D deeply supervised network: two poolings, deconvolutions back, and a judgement at three depths.

Dou, Yu, Chen, Jin, Yang, Qin and Heng, "3D deeply supervised network for automated segmentation of
volumetric medical images", Medical Image Analysis 41, 2017.

Deviations: convolutions keep the size of the image, so that any size fits; batch normalisation follows each,
so that it learns with few patches a step; the auxiliary heads weigh 0.3 and 0.4 throughout, where the paper
lets them fall as training goes on, as a form has one weight for each output; no conditional random field
follows, which is no part of the network. Assumed: the feature maps and kernels are those of its network for
the liver, and the heads are scored after the second convolution of a block.
"""

from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Index, Network, Output, maps

BLOCKS: tuple[tuple[tuple[int, Index], ...], ...] = (
    ((8, (7, 9, 9)), (8, (7, 9, 9))),
    ((16, (5, 7, 7)), (32, (5, 7, 7))),
    ((32, (3, 5, 5)), (32, (1, 1, 1))),
)
"""Feature maps and kernels (z, y, x) of the convolutions before, between and behind the poolings."""
WEIGHTS = (1.0, 0.4, 0.3)
"""Of the output, of the middle block's head and of the first one's."""


class DSN3D(Network):
    """The 3D deeply supervised network; in training it gives its output and those of two auxiliary heads.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
    """

    small_width = 0.5

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        before = in_channels
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        for level, block in enumerate(BLOCKS):
            layers: list[nn.Module] = []
            for count, kernel in block:
                after = maps(count, width)
                layers += [nn.Conv3d(before, after, kernel, padding="same", bias=False)]
                layers += [nn.BatchNorm3d(after), nn.ReLU(inplace=True)]
                before = after
            self.blocks.append(nn.Sequential(*layers))
            self.heads.append(_deconvolved(before, classes, level))
        z, y, x = (_receptive_field(axis) for axis in range(3))
        step = 2 ** (len(BLOCKS) - 1)
        outputs = tuple(Output(weight) for weight in WEIGHTS)
        self.form = Form(3, (z, y, x), multiple=(step, step, step), outputs=outputs)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X); in training three of them."""
        features, found = image, []
        for level, block in enumerate(self.blocks):
            features = block(functional.max_pool3d(features, 2) if level else features)
            found.append(features)
        if not self.training:
            logits: Tensor = self.heads[-1](features)
            return logits
        scores = [head(each) for head, each in zip(self.heads, found, strict=True)]
        return tuple(reversed(scores))


def _deconvolved(channels: int, classes: int, doublings: int) -> nn.Sequential:
    """Brings features to the resolution of the image, doubling it as often as it was halved; scores them."""
    layers: list[nn.Module] = []
    for _ in range(doublings):
        layers += [nn.ConvTranspose3d(channels, channels, 2, 2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv3d(channels, classes, 1))


def _receptive_field(axis: int) -> int:
    """The edge of what an output voxel sees by way of the deepest block."""
    edge = step = 1
    for level, block in enumerate(BLOCKS):
        if level:
            edge += step
            step *= 2
        edge += sum((kernel[axis] - 1) * step for _, kernel in block)
    return edge


NETWORK = DSN3D
