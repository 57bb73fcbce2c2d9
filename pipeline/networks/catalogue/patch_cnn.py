"""The conventional classifier of patches: convolutions, pooling, fully connected layers; for the centre.

The survey's "2D CNN" and "3D CNN" (Hesamian et al., Journal of Digital Imaging 32, 2019); two
convolutions of 4 with a pooling behind each follow Cireşan, Giusti, Gambardella and Schmidhuber, "Deep
Neural Networks Segment Neuronal Membranes in Electron Microscopy Images", NIPS 2012. Run over a volume as
in Masci et al., "A Fast Learning Algorithm for Image Segmentation with Max-Pooling Convolutional
Networks", ICIP 2013: pooling takes every voxel's window, and all that follows is spread out, so that the
result is that of every patch by itself.

Assumptions: the survey states no layer table; patches are 29² in 2D and 21³ in 3D.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, as_slices, as_volume, maps

MAPS, HIDDEN = (48, 48), (200, 200)
"""Feature maps of the convolutions, and units of the fully connected layers."""
KERNEL, POOL = 4, 2
REMAINING = {2: 5, 3: 3}
"""Edge of what is left of a patch before the fully connected layers, by dimensions."""


class PatchCNN(Network):
    """A classifier of the voxel in the middle of a patch, run on every patch of its input at once.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above.
        dims: 2 or 3.
        dropout: probability between the fully connected layers.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        dims: Literal[2, 3] = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise ValueError(f"dims is {dims!r}, not 2 or 3")
        self._dims = dims
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        one, two = (maps(count, width) for count in MAPS)
        three, four = (maps(count, width) for count in HIDDEN)
        self.convolutions = nn.ModuleList(
            [
                convolution(in_channels, one, KERNEL),
                convolution(one, two, KERNEL),
                convolution(two, three, REMAINING[dims]),
            ]
        )
        self.activation = nn.ReLU()
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            convolution(three, four, 1),
            nn.ReLU(),
            nn.Dropout(dropout),
            convolution(four, classes, 1),
        )
        edge = _receptive_field(dims)
        flat, side = dims == 2, edge // 2
        self.form = Form(
            dims,
            (1 if flat else edge, edge, edge),
            margin=(0 if flat else side, side, side),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z + 2m, Y + 2m, X + 2m) to logits (B, classes, Z, Y, X); in 2D without m in z."""
        return self._run(image, dense=True)

    def patchwise(self, image: Tensor) -> Tensor:
        """The same of single patches: (B, in_channels, *receptive_field) to (B, classes, 1, 1, 1)."""
        return self._run(image, dense=False)

    def _run(self, image: Tensor, dense: bool) -> Tensor:
        features = as_slices(image) if self._dims == 2 else image
        spread = 1
        for level, layer in enumerate(self.convolutions):
            features = self.activation(self._convolved(layer, features, spread))
            if level < len(MAPS):
                features = self._pooled(features, 1 if dense else POOL, spread)
                spread *= POOL if dense else 1
        logits: Tensor = self.head(features)
        return as_volume(logits, image.shape[0]) if self._dims == 2 else logits

    def _convolved(self, layer: nn.Module, features: Tensor, spread: int) -> Tensor:
        assert isinstance(layer.weight, Tensor)
        assert isinstance(layer.bias, Tensor)
        function = functional.conv2d if self._dims == 2 else functional.conv3d
        result: Tensor = function(features, layer.weight, layer.bias, dilation=spread)
        return result

    def _pooled(self, features: Tensor, stride: int, spread: int) -> Tensor:
        function = functional.max_pool2d if self._dims == 2 else functional.max_pool3d
        return function(features, POOL, stride, dilation=spread)


def _receptive_field(dims: int) -> int:
    edge = step = 1
    for _ in MAPS:
        edge += (KERNEL - 1) * step + (POOL - 1) * step
        step *= POOL
    return edge + (REMAINING[dims] - 1) * step


NETWORK = PatchCNN
