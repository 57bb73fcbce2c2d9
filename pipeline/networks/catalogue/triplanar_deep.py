"""25 convolutions of 3², the same for three orthogonal patches: one network for several tasks and modalities.

Moeskops, Wolterink, van der Velden, Gilhuijs, Leiner, Viergever and Išgum, "Deep Learning for Multi-task
Medical Image Segmentation in Multiple Modalities", MICCAI 2016: patches of 51² and no pooling, so that a
volume is labelled by convolutions alone. The layers see all planes, and all weights up to the last layer are
those of every task: a task is its classes in one softmax with one background, a modality is told by the
images themselves. An organ of `params.yaml` with the labels of all tasks trains it so (labels that nobody
looked for in a case are no background there).

Assumed: 32 feature maps and 192 units of the fully connected layers; batch normalisation before the
exponential linear unit, each plane by its own statistics in training; dropout before each fully connected
layer.
"""

import itertools

import torch
from torch import Tensor, nn

from pipeline.networks.base import Form, Network, maps
from pipeline.networks.catalogue.multiview_fcn import VIEWS
from pipeline.networks.catalogue.triplanar import sections, upright

LAYERS, MAPS, KERNEL = 25, 32, 3
HIDDEN = (192, 192)
"""Units of the fully connected layers, which are convolutions of 1."""
SIDE = LAYERS * (KERNEL // 2)
"""Voxels that a patch reaches to each side."""


class TriplanarDeep(Network):
    """A classifier of the voxel in which three patches of 51² cross, run on every voxel of its input.

    Args:
        in_channels: of the image.
        classes: of the logits, of all tasks; background included.
        width: of the feature maps, 1 as they are stated above.
        dropout: probability before the fully connected layers.
    """

    small_width = 0.125

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        counts = [in_channels, *[maps(MAPS, width)] * LAYERS]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(counts):
            layers += [nn.Conv2d(before, after, KERNEL, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ELU(inplace=True))
        # With so few maps, a CPU is three times as fast at the gradients where channels lie last.
        self.shared = nn.Sequential(*layers)
        self.shared.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        units = [len(VIEWS) * counts[-1], *(maps(count, width) for count in HIDDEN)]
        head: list[nn.Module] = []
        for before, after in itertools.pairwise(units):
            head += [nn.Dropout(dropout), nn.Conv3d(before, after, 1, bias=False)]
            head += [nn.BatchNorm3d(after), nn.ELU(inplace=True)]
        self.head = nn.Sequential(*head, nn.Dropout(dropout), nn.Conv3d(units[-1], classes, 1))
        edge = 2 * SIDE + 1
        self.form = Form(3, (edge, edge, edge), margin=(SIDE, SIDE, SIDE))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z + 50, Y + 50, X + 50) to logits (B, classes, Z, Y, X)."""
        planes = [upright(self.shared(sections(image, view, SIDE)), view, image.shape[0]) for view in VIEWS]
        logits: Tensor = self.head(torch.cat(planes, dim=1))
        return logits


NETWORK = TriplanarDeep
