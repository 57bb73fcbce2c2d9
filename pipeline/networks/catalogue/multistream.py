"""A 3D FCN with a stream for each modality, fused late, judged at three resolutions; a modality may lack.

Zeng and Zheng, "Multi-stream 3D FCN with multi-scale deep supervision for multi-modality isointense infant
brain MR image segmentation", ISBI 2018. The paper's layers are not known to us; what follows is assumed, from
its account in the survey (Hesamian et al., Journal of Digital Imaging 32, 2019) and the same authors' 3D
U-Net (`unet_mds`):

* A stream is a 3D U-Net that sees one modality, and sees it at each of four resolutions: the image, averaged,
  enters its contracting path wherever that is halved.
* Streams meet only behind their expanding paths, at the resolutions 1/4, 1/2 and 1, each of which is
  classified. The two down-sampled classifiers are injected: their probabilities go into the fusion at the
  next finer resolution. They weigh a quarter and a half, and are judged at the resolution of the image.

A channel that is the same everywhere (in a patch, an element of the batch each for itself) is a modality that
is missing: the mean features of the present streams stand for its own, whatever its value. Where all are the
same everywhere, none counts as missing. In training a modality is taken away with probability
`drop_modality`, so that the network learns to do without; at least one stays.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Network, Output, maps

MAPS = (32, 64, 128, 256)
"""Feature maps of a stream at each resolution, finest first."""
WEIGHTS = (1.0, 0.5, 0.25)
"""Of the classifiers at the resolutions at which streams are fused, finest first."""
FLAT = 1e-3
"""Range of a channel, in deviations, within which it is the same everywhere: resampling leaves traces."""


class MultiStream(Network):
    """A stream for each channel; in training it gives the output and those of two down-sampled classifiers.

    Args:
        in_channels: of the image, modalities.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above.
        drop_modality: probability that a modality is taken away in a step of training.
    """

    small_width = 0.125

    def __init__(
        self, in_channels: int, classes: int, *, width: float = 1.0, drop_modality: float = 0.25
    ) -> None:
        super().__init__()
        if not 0 <= drop_modality < 1:
            raise ValueError(f"drop_modality is {drop_modality}, not a probability below 1")
        self._drop = drop_modality
        counts = [maps(count, width) for count in MAPS]
        self.streams = nn.ModuleList(Stream(counts) for _ in range(in_channels))
        fused = counts[len(WEIGHTS) - 1 :: -1]
        self.fusions = nn.ModuleList(
            _convolution(in_channels * count + (classes if level else 0), count)
            for level, count in enumerate(fused)
        )
        self.classifiers = nn.ModuleList(nn.Conv3d(count, classes, 1) for count in fused)
        step, edge = 2 ** (len(MAPS) - 1), _receptive_field()
        self.form = Form(
            3,
            (edge, edge, edge),
            multiple=(step, step, step),
            missing_channels=True,
            outputs=tuple(Output(weight) for weight in WEIGHTS),
        )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X); in training three, the finest first."""
        there = self._kept(present(image))
        streams = [stream(image[:, number : number + 1]) for number, stream in enumerate(self.streams)]
        scores: list[Tensor] = []
        for features, fusion, classifier in zip(
            zip(*streams, strict=True), self.fusions, self.classifiers, strict=True
        ):
            given = filled(torch.stack(features, dim=1), there).flatten(1, 2)
            if scores:
                coarse = functional.interpolate(scores[-1].softmax(1), scale_factor=2.0, mode="trilinear")
                given = torch.cat([given, coarse], dim=1)
            scores.append(classifier(fusion(given)))
        finest = scores.pop()
        if not self.training:
            return finest
        size = finest.shape[2:]
        return finest, *(functional.interpolate(each, size, mode="trilinear") for each in scores[::-1])

    def _kept(self, there: Tensor) -> Tensor:
        """Which of the modalities that are there (B, M) a step sees."""
        if not self.training:
            return there
        drawn = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
        stays = (drawn >= self._drop) | (drawn == drawn.amax(1, keepdim=True))
        return there & stays


class Stream(nn.Module):
    """The 3D U-Net of one modality.

    Args:
        counts: feature maps at each resolution, finest first.
    """

    def __init__(self, counts: list[int]) -> None:
        super().__init__()
        inputs = [1, *(count + 1 for count in counts[:-1])]
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(before, after), _convolution(after, after))
            for before, after in zip(inputs, counts, strict=True)
        )
        pairs = list(itertools.pairwise(counts[::-1]))
        self.up = nn.ModuleList(nn.ConvTranspose3d(deep, fine, 2, 2, bias=False) for deep, fine in pairs)
        self.decoder = nn.ModuleList(
            nn.Sequential(_convolution(2 * fine, fine), _convolution(fine, fine)) for _, fine in pairs
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 1, Z, Y, X) to features of all resolutions but the coarsest, the coarser ones first."""
        features, skips = self.down[0](image), []
        for block in self.down[1:]:
            skips.append(features)
            image = functional.avg_pool3d(image, 2)
            features = block(torch.cat([functional.max_pool3d(features, 2), image], dim=1))
        found = []
        for up, block in zip(self.up, self.decoder, strict=True):
            features = block(torch.cat([skips.pop(), up(features)], dim=1))
            found.append(features)
        return found


def present(image: Tensor) -> Tensor:
    """Which channels of an image (B, M, Z, Y, X) are there, (B, M) bool; all, where all are flat."""
    voxels = image.detach().float().flatten(2)
    there = voxels.amax(2) - voxels.amin(2) > FLAT
    return there | ~there.any(1, keepdim=True)


def filled(features: Tensor, there: Tensor) -> Tensor:
    """Features (B, M, C, Z, Y, X), where a modality is missing the mean of those that are there (B, M)."""
    known = there[:, :, None, None, None, None]
    number = known.sum(1, keepdim=True)
    mean = features.masked_fill(~known, 0.0).sum(1, keepdim=True) / number
    return torch.where(known, features, mean.to(features.dtype))


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(before, after, 3, padding=1, bias=False), nn.BatchNorm3d(after), nn.ReLU(inplace=True)
    )


def _receptive_field() -> int:
    """The edge of what an output voxel sees, by way of all classifiers and of the coarsest resolution.

    Voxels of each resolution are counted from the output back, wherever they lie within coarser ones.
    """
    voxels = 1
    for level in range(len(WEIGHTS)):
        if level:
            # Interpolation takes from the voxels at both sides.
            voxels = voxels // 2 + 2
        voxels += 2
    voxels = (voxels + 4) // 2 + 1
    voxels += 4
    for _ in MAPS[1:]:
        voxels = 2 * voxels + 4
    return voxels


NETWORK = MultiStream
