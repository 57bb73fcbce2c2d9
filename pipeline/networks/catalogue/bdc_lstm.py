"""Multi-scale 2D U-Nets on every slice, and a convolutional LSTM over the slices in both directions.

Chen, Yang, Zhang, Alber and Chen, "Combining Fully Convolutional and Recurrent Neural Networks for 3D
Biomedical Image Segmentation", NIPS 2016: kU-Net with k = 2 and BDC-LSTM.

Deviations: one LSTM goes both ways, and what it found is added up, so that a volume that is turned over
gives the result turned over; `shared: false` gives each direction its own weights and joins both, as in
the paper. The submodules are U-Nets of this catalogue with instance normalisation, three resolutions
deep; a single BDC-LSTM follows, where the paper nests them; all is trained together.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, maps
from pipeline.networks.catalogue.unet import UNet
from pipeline.networks.layers_recurrent import ConvLSTM

LEVELS = 3
FEATURES = 32
"""Maps that the submodules hand over, and of the LSTM's state."""
COARSER = 2
"""By which the first submodule sees a smaller image."""


class BDCLSTM(Network):
    """kU-Net and BDC-LSTM; its receptive field is the whole patch.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above and in the U-Net.
        shared: both directions have the same weights.
    """

    small_width = 0.125

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0, shared: bool = True) -> None:
        super().__init__()
        features = maps(FEATURES, width)
        self.coarse = UNet(in_channels, features, width=width, dims=2, norm="instance", levels=LEVELS)
        self.fine = UNet(
            in_channels + features, features, width=width, dims=2, norm="instance", levels=LEVELS
        )
        self.there = ConvLSTM(features, features)
        self.back = self.there if shared else ConvLSTM(features, features)
        self._shared = shared
        self.head = nn.Conv3d(features if shared else 2 * features, classes, 1)
        step = COARSER * self.coarse.form.multiple[1]
        self.form = Form(3, (0, 0, 0), multiple=(1, step, step))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        context = self.coarse(functional.avg_pool3d(image, (1, COARSER, COARSER)))
        context = functional.interpolate(context, image.shape[2:], mode="nearest")
        features = self.fine(torch.cat([image, context], dim=1))
        there, back = self.there(features), self.back(features, backwards=True)
        logits: Tensor = self.head(there + back if self._shared else torch.cat([there, back], dim=1))
        return logits


NETWORK = BDCLSTM
