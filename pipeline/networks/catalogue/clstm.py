"""A 2D network on every slice, and a convolutional LSTM that goes over what it found, slice by slice.

The survey's account of Cai, Lu, Xie, Xing and Yang, "Improving Deep Pancreas Segmentation in CT and MRI
Images via Recurrent Neural Contextual Learning and Direct Loss Function", MICCAI 2017: the recurrence
takes the output maps of the 2D network in the order of the slices and makes neighbouring ones agree.

Deviations: the 2D network is the U-Net of this catalogue, three resolutions deep, with instance
normalisation, trained together with the recurrence rather than before it; the loss is the one of
`train.loss`.
"""

from torch import Tensor, nn

from pipeline.networks.base import Form, Network, maps
from pipeline.networks.catalogue.unet import UNet
from pipeline.networks.layers_recurrent import ConvLSTM

LEVELS = 3
FEATURES = 32
"""Maps that the 2D network hands over, and of the LSTM's state."""


class CLSTM(Network):
    """A 2D network and a convolutional LSTM along the slices.

    Its receptive field goes as far as the patch: back to its first slice, and wider from slice to slice.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above and in the U-Net.
    """

    small_width = 0.125

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        features = maps(FEATURES, width)
        self.slices = UNet(in_channels, features, width=width, dims=2, norm="instance", levels=LEVELS)
        self.recurrence = ConvLSTM(features, features)
        self.head = nn.Conv3d(features, classes, 1)
        self.form = Form(3, (0, 0, 0), multiple=self.slices.form.multiple)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        logits: Tensor = self.head(self.recurrence(self.slices(image)))
        return logits


NETWORK = CLSTM
