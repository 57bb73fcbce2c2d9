"""A recurrent FCN: a gated recurrent unit between encoder and decoder goes over the slices, end to end.

Poudel, Lamata and Montana, "Recurrent Fully Convolutional Neural Networks for Multi-slice MRI Cardiac
Segmentation", RAMBO/HVSMR 2016.

Deviations: detection is a head of its own on the recurrent state, which says of each slice which classes
it holds, and weighs a tenth; batch normalisation follows each convolution; four resolutions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, Output, as_slices, as_volume, maps
from pipeline.networks.layers_recurrent import ConvGRU

STAGES = (32, 64, 128, 256)
"""Feature maps at each resolution, finest first."""
DETECTION = 0.1
"""Weight of the loss of which classes a slice holds."""


class RFCN(Network):
    """The recurrent FCN: in training it gives the segmentation, and which classes each slice holds.

    Its receptive field goes as far as the patch.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above.
    """

    small_width = 0.25

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        stages = [maps(count, width) for count in STAGES]
        inputs = [in_channels, *stages[:-1]]
        self.encoder = nn.ModuleList(
            _double(before, after) for before, after in zip(inputs, stages, strict=True)
        )
        self.recurrence = ConvGRU(stages[-1], stages[-1])
        self.detector = nn.Linear(stages[-1], classes)
        finer = stages[-2::-1]
        coarser = [stages[-1], *finer[:-1]]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, 2) for coarse, fine in zip(coarser, finer, strict=True)
        )
        self.decoder = nn.ModuleList(_double(2 * fine, fine) for fine in finer)
        self.head = nn.Conv2d(stages[0], classes, 1)
        step = 2 ** (len(stages) - 1)
        outputs = (Output(), Output(DETECTION, "presence"))
        self.form = Form(3, (0, 0, 0), multiple=(1, step, step), outputs=outputs)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X), in training (B, classes, Z, 1, 1)."""
        features, skips = as_slices(image), []
        for level, block in enumerate(self.encoder):
            features = block(functional.max_pool2d(features, 2) if level else features)
            skips.append(features)
        state = self.recurrence(as_volume(skips.pop(), image.shape[0]))
        features = as_slices(state)
        for up, block in zip(self.up, self.decoder, strict=True):
            features = block(torch.cat([up(features), skips.pop()], dim=1))
        logits = as_volume(self.head(features), image.shape[0])
        if not self.training:
            return logits
        held = self.detector(state.amax((3, 4)).transpose(1, 2)).transpose(1, 2)
        return logits, held[..., None, None]


def _double(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for given in (before, after):
        layers += [nn.Conv2d(given, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


NETWORK = RFCN
