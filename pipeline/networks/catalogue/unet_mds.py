"""The 3D U-Net with three levels of deep supervision, each at the resolution of the image.

Zeng, Yang, Li, Yu, Heng and Zheng, "3D U-net with Multi-level Deep Supervision: Fully Automatic
Segmentation of Proximal Femur in 3D MR Images", MLMI 2017.

Deviations: the low and the middle branch weigh a quarter and a half, as the paper's weights are not known to
us. Assumed: a branch scores its features first, which costs least, and deconvolutions, one for each doubling,
bring the scores to the resolution of the image.
"""

from typing import Literal

from torch import nn

from pipeline.networks.catalogue.unet import UNet


class UNetMDS(UNet):
    """The 3D U-Net of this catalogue, judged at all three resolutions of its expanding path.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the 3D U-Net.
        norm: batch or instance.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        super().__init__(in_channels, classes, width=width, dims=3, norm=norm, deep_supervision=True)
        self.heads = nn.ModuleList(
            nn.Sequential(head, *(nn.ConvTranspose3d(classes, classes, 2, 2) for _ in range(level)))
            for level, head in enumerate(self.heads)
        )


NETWORK = UNetMDS
