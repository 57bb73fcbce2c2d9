"""PyraMiD-LSTM: convolutional LSTMs sweep a volume in six directions, and what they found is added up.

Stollenga, Byeon, Liwicki and Schmidhuber, "Parallel Multi-Dimensional LSTM, With Application to Fast
Biomedical Volumetric Image Segmentation", NIPS 2015.

Deviations: kernels are 3 wide, where the paper has 7; what the network sees is normalised by the plan of
the data, without the paper's local equalisation.
"""

import torch
from torch import Tensor, nn

from pipeline.networks.base import Form, Network, maps
from pipeline.networks.layers_recurrent import ConvLSTM

SWEPT, CONNECTED = (16, 32, 64), (25, 45)
"""Maps of the three layers that sweep, and of the layers between them."""
AXES = ((2, 3, 4), (3, 2, 4), (4, 2, 3))
"""Of a volume (B, C, Z, Y, X): the one that is swept, and the two of the planes."""


class PyramidLSTM(Network):
    """PyraMiD-LSTM; its receptive field is the whole patch.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the paper.
    """

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        swept, connected = ([maps(count, width) for count in counts] for counts in (SWEPT, CONNECTED))
        layers: list[nn.Module] = []
        for before, after in zip([in_channels, *connected], swept, strict=True):
            layers += [Sweeps(before, after)]
            if len(layers) < 2 * len(swept) - 1:
                layers.append(nn.Sequential(nn.Conv3d(after, connected[len(layers) // 2], 1), nn.Tanh()))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Conv3d(swept[-1], classes, 1)
        self.form = Form(3, (0, 0, 0))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        logits: Tensor = self.head(self.layers(image))
        return logits


class Sweeps(nn.Module):
    """Six convolutional LSTMs, there and back along each axis, added up: (B, before, …) to (B, after, …)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.directions = nn.ModuleList(ConvLSTM(before, after) for _ in range(2 * len(AXES)))

    def forward(self, volume: Tensor) -> Tensor:
        """Features of the same voxels."""
        found = []
        for number, sweep in enumerate(self.directions):
            order = (0, 1, *AXES[number // 2])
            back = [order.index(axis) for axis in range(5)]
            found.append(sweep(volume.permute(order), backwards=number % 2 == 1).permute(back))
        return torch.stack(found).sum(0)


NETWORK = PyramidLSTM
