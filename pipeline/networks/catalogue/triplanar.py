"""The 2.5D classifier: a voxel is labelled from the three orthogonal 2D patches that cross in it.

`fusion: branches` is Prasoon, Petersen, Igel, Lauze, Dam and Nielsen, "Deep Feature Learning for Knee
Cartilage Segmentation Using a Triplanar Convolutional Neural Network", MICCAI 2013: a CNN for each plane,
the features of the three under one softmax, which is the sum of what each contributes to a class. As a plane
has a network of its own, it is run densely as `patch_cnn` is: pooling takes every voxel's window, and what
follows is spread out, so that the result is that of every patch by itself.

`fusion: channels` is Roth, Lu, Seff, Cherry, Hoffman, Wang, Liu, Turkbey, Kim and Summers, "A New 2.5D
Representation for Lymph Node Detection Using Random Sets of Deep Convolutional Neural Network Observations",
MICCAI 2014: the three patches are the channels of one CNN. Behind its first layer a feature belongs to a
voxel and to a place within its patches, five coordinates, so that no two voxels share it and there is no
dense form: patches are cut out and labelled some at a time, and made anew on the way back, so that memory is
bounded. `step` labels every so many voxels and interpolates between them; 1, the default, labels each.

Deviations: both fusions have the layers and the 28² patches of the first paper, so that they differ in
nothing but fusion; `channels` labels voxels, where its paper classifies candidates from many views and
averages. Assumed: feature maps, and that pooling is by the maximum and activation by ReLU. A patch of 28 has
no middle: it reaches 14 voxels before its own and 13 behind.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.networks.base import Form, Index, Network, as_slices, as_volume, maps
from pipeline.networks.catalogue.multiview_fcn import VIEWS

MAPS = (32, 64)
"""Feature maps of the convolutions; a pooling follows each."""
KERNEL, POOL, REMAINING = 5, 2, 4
"""Edges of a convolution, of what is pooled, and of what is left of a patch before the softmax layer."""
PATCH, BEFORE = 28, 14
"""Edge of a patch, and how many of its voxels lie before the one that is labelled."""
AT_ONCE = 4096
"""Voxels whose patches are labelled together where there is no dense form."""
SMALL_STEP = 3

View = tuple[int, int, int]


class Triplanar(Network):
    """A classifier of the voxel in which three patches cross, run on every voxel of its input.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above.
        fusion: branches: a CNN for each plane, added up; channels: one CNN that sees the planes as channels.
        step: of `channels`, odd: the middle voxel of so many along each axis is labelled.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        fusion: Literal["branches", "channels"] = "branches",
        step: int = 1,
    ) -> None:
        super().__init__()
        if fusion not in ("branches", "channels"):
            raise ValueError(f"fusion is {fusion!r}, not branches or channels")
        if step < 1 or step % 2 == 0 or (fusion == "branches" and step != 1):
            raise ValueError(f"step is {step}, not odd, or not 1, which it is with fusion branches")
        self._fusion, self._step = fusion, step
        planes = len(VIEWS)
        networks, seen = (planes, in_channels) if fusion == "branches" else (1, planes * in_channels)
        self.networks = nn.ModuleList(PlaneCNN(seen, classes, width) for _ in range(networks))
        # With so few maps, a CPU is faster at the gradients where channels lie last.
        self.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.form = Form(
            3,
            (PATCH, PATCH, PATCH),
            margin=(BEFORE, BEFORE, BEFORE),
            multiple=(step, step, step),
        )

    @classmethod
    def plan(
        cls, options: Mapping[str, Any], patch_size: Index, spacing: Sequence[float], small: bool
    ) -> dict[str, Any]:
        """As `Network.plan`; what has no dense form labels fewer voxels on few CPU cores."""
        planned = super().plan(options, patch_size, spacing, small)
        coarse = small and planned.get("fusion") == "channels"
        return ({"step": SMALL_STEP} if coarse else {}) | planned

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z + 28, Y + 28, X + 28) to logits (B, classes, Z, Y, X)."""
        if self._fusion == "branches":
            return torch.stack(self.branches(image)).sum(0)
        logits: Tensor = self._cut_out(image)
        return logits

    def branches(self, image: Tensor) -> list[Tensor]:
        """What each plane says of the voxels, as logits that `forward` adds up; of `fusion: branches`."""
        found = []
        for view, network in zip(VIEWS, self.networks, strict=True):
            # The last row and column are of patches of which there would be one too many.
            slices = sections(image, view, BEFORE)[..., :-1, :-1]
            found.append(upright(network(slices, dense=True), view, image.shape[0]))
        return found

    def patchwise(self, cube: Tensor) -> Tensor:
        """The same of single voxels: (B, in_channels, 28, 28, 28) to logits (B, classes, 1, 1, 1)."""
        patches = [cube.select(view[0], BEFORE) for view in VIEWS]
        given = patches if self._fusion == "branches" else [torch.cat(patches, dim=1)]
        scores = [network(patch) for network, patch in zip(self.networks, given, strict=True)]
        return torch.stack(scores).sum(0)[..., None]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _cut_out(self, image: Tensor) -> Tensor:
        """Logits by way of every voxel's own patches. Not compiled: hundreds of equal parts would be."""
        views = [windows(image, view, self._step) for view in VIEWS]
        batch, (slices, rows, columns) = image.shape[0], views[0].shape[2:5]
        some = max(1, AT_ONCE // (batch * columns))
        labelled = []
        for index in range(slices):
            parts = []
            for first in range(0, rows, some):
                place = index, slice(first, first + some)
                # In training without what is between: it is made anew on the way back.
                part: Tensor = (
                    checkpoint(self._labelled, views, place, use_reentrant=False)
                    if self.training
                    else self._labelled(views, place)
                )
                parts.append(part)
            labelled.append(torch.cat(parts, dim=2))
        logits = torch.stack(labelled, dim=2)
        if self._step == 1:
            return logits
        return functional.interpolate(logits, scale_factor=float(self._step), mode="trilinear")

    def _labelled(self, views: list[Tensor], place: tuple[int, slice]) -> Tensor:
        """Logits (B, classes, rows, X) of some rows of a slice."""
        index, rows = place
        patches = torch.cat([view[:, :, index, rows] for view in views], dim=1).movedim(1, 3)
        scores: Tensor = self.networks[0](patches.flatten(0, 2))
        return scores.view(*patches.shape[:3], -1).movedim(-1, 1)


class PlaneCNN(nn.Module):
    """Scores of the voxel in the middle of a 2D patch: two convolutions of 5, each pooled, a linear layer.

    Args:
        channels: of the patches.
        classes: of the logits.
        width: of the feature maps.
    """

    def __init__(self, channels: int, classes: int, width: float) -> None:
        super().__init__()
        counts = [channels, *(maps(count, width) for count in MAPS)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL) for before, after in itertools.pairwise(counts)
        )
        self.activation = nn.ReLU()
        self.score = nn.Conv2d(counts[-1], classes, REMAINING)

    def forward(self, patches: Tensor, dense: bool = False) -> Tensor:
        """Patches (B, channels, 28, 28) to logits (B, classes, 1, 1).

        Where it is `dense`, (B, channels, Y + 27, X + 27) to those of all patches, (B, classes, Y, X).
        """
        features, spread = patches, 1
        for layer in self.convolutions:
            features = self.activation(_spread_out(layer, features, spread))
            features = functional.max_pool2d(features, POOL, 1 if dense else POOL, dilation=spread)
            spread *= POOL if dense else 1
        return _spread_out(self.score, features, spread)


def sections(image: Tensor, view: View, margin: int) -> Tensor:
    """The slices of an image (B, C, Z, Y, X) across the first axis of a view, (B·slices, C, rows, columns).

    Along that axis, `margin` voxels at each end are left out: a slice there has no voxel to be labelled.
    """
    across = view[0]
    inner = image.narrow(across, margin, image.shape[across] - 2 * margin)
    return as_slices(inner.permute(0, 1, *view))


def upright(slices: Tensor, view: View, batch: int) -> Tensor:
    """The volumes (B, C, Z, Y, X) of which `slices` are the sections."""
    order = (0, 1, *view)
    return as_volume(slices, batch).permute([order.index(axis) for axis in range(5)])


def windows(image: Tensor, view: View, step: int) -> Tensor:
    """The patches of a view around the voxels that are labelled, (B, C, z, y, x, 28, 28), without a copy."""
    across, *within = view
    first = step // 2
    box = [slice(None), slice(None), *[slice(first, -1)] * 3]
    box[across] = slice(BEFORE + first, image.shape[across] - BEFORE, step)
    patches = image[tuple(box)]
    for axis in within:
        patches = patches.unfold(axis, PATCH, step)
    return patches


def _spread_out(layer: nn.Module, features: Tensor, spread: int) -> Tensor:
    """A convolution whose weights lie `spread` voxels apart."""
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    return functional.conv2d(features, layer.weight, layer.bias, dilation=spread)


NETWORK = Triplanar
