"""A 2D FCN for each of the three sectional views of a volume, and a vote of the three on every voxel.

Zhou, Takayama, Wang, Hara and Fujita, "Deep learning of the sectional appearances of 3D CT images for
anatomical structure segmentation based on an FCN voting method", Medical Physics 44, 2017.

Deviations: the three are trained side by side, on the slices of the same patches, each by a loss of its
own.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, Output
from pipeline.networks.catalogue.fcn import FCN, receptive_field

VIEWS = ((2, 3, 4), (3, 2, 4), (4, 2, 3))
"""Axes of a volume (B, C, Z, Y, X) as slices, rows and columns: axial, coronal, sagittal."""


class MultiViewFCN(Network):
    """Three FCNs: in training it gives the logits of each view, in evaluation those of their vote.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the FCN.
        stride: of the finest scores of each FCN.
        dropout: of each FCN.
    """

    small_width = FCN.small_width

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        stride: Literal[32, 16, 8] = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.views = nn.ModuleList(
            FCN(in_channels, classes, width=width, dims=2, stride=stride, dropout=dropout) for _ in VIEWS
        )
        edge = receptive_field()
        self.form = Form(3, (edge, edge, edge), multiple=(32, 32, 32), outputs=tuple(Output() for _ in VIEWS))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X); in training those of each view."""
        logits = [self._seen(view, network, image) for view, network in zip(VIEWS, self.views, strict=True)]
        return tuple(logits) if self.training else vote(torch.stack(logits).float().softmax(2))

    def _seen(self, view: tuple[int, int, int], network: nn.Module, image: Tensor) -> Tensor:
        order = (0, 1, *view)
        back = [order.index(axis) for axis in range(5)]
        seen: Tensor = network(image.permute(order)).permute(back)
        return seen


def vote(probabilities: Tensor) -> Tensor:
    """What most views say of a voxel; where no class has more votes than another, the more probable one.

    Args:
        probabilities: (views, B, classes, Z, Y, X).

    Returns:
        Logits (B, classes, Z, Y, X), the logarithms of the shares of votes, with less than half a vote shared
        out by mean probability.
    """
    views, classes = probabilities.shape[0], probabilities.shape[2]
    votes = functional.one_hot(probabilities.argmax(2), classes).movedim(-1, 2).float().mean(0)
    share = votes + probabilities.mean(0) / (2 * views)
    return share.clamp_min(torch.finfo(share.dtype).tiny).log()


NETWORK = MultiViewFCN
