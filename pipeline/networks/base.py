"""A network's form: training, sampling, losses and inference go by it, and never by a network's name.

The engine speaks of volumes alone: a network maps images (B, C, Z, Y, X) to logits (B, classes, Z', Y', X').
A 2D network takes the slices of a patch as so many images. One that labels a voxel from what surrounds it
(patch-wise, or by valid convolutions) gives fewer voxels than it is given: its `margin` says how many fewer,
and the engine hands it that much more of the image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

Index = tuple[int, int, int]


@dataclass(frozen=True)
class Output:
    """One of the outputs that training looks at."""

    weight: float = 1.0
    """Of its loss."""
    target: Literal["label", "contour", "presence"] = "label"
    """label: logits (B, classes, Z', Y', X') of the classes; contour: logits (B, 2, Z', Y', X') of whether a
    voxel lies at the border of an object; presence: logits (B, classes, Z', 1, 1) of whether a slice holds
    the class (whatever the background's says). Labels and contours after the first may be coarser."""


@dataclass(frozen=True)
class Form:
    """What goes into a network and what comes out; all sizes are (z, y, x) voxels."""

    dims: Literal[2, 3]
    """2: slices are independent of each other."""
    receptive_field: Index
    """Of an output voxel, as the kernels and strides give it; normalisation may see more, but along no axis
    that is `complete`. 0: as far as the patch goes."""
    margin: Index = (0, 0, 0)
    """Voxels of the input, at each side, for which there is no output."""
    multiple: Index = (1, 1, 1)
    remainder: Index = (0, 0, 0)
    """The edge of an output is a multiple and the remainder."""
    missing_channels: bool = False
    """Whether an image may lack channels: one that is the same everywhere counts as missing."""
    outputs: tuple[Output, ...] = (Output(),)
    """In training; the first is the segmentation, which is all there is in evaluation."""

    @property
    def complete(self) -> tuple[bool, bool, bool]:
        """Along which axes a window shows all that its output depends on, wherever it begins.

        Across the slices of a 2D network; of a network that labels each voxel from what surrounds it, along
        all. Windows that overlap there say the same twice.
        """
        z, y, x = (
            0 < field <= 2 * side + 1 and step == 1
            for field, side, step in zip(self.receptive_field, self.margin, self.multiple, strict=True)
        )
        return z, y, x

    def fit(self, size: Sequence[int]) -> Index:
        """The smallest output no smaller than `size` that the network can have."""
        z, y, x = (
            rest + step * max(0, -(-(edge - rest) // step)) or step
            for edge, step, rest in zip(size, self.multiple, self.remainder, strict=True)
        )
        return z, y, x

    def input_size(self, output: Sequence[int]) -> Index:
        """The input that an output of this size takes."""
        z, y, x = (edge + 2 * side for edge, side in zip(output, self.margin, strict=True))
        return z, y, x


ANY_SIZE = Form(3, (1, 1, 1))
"""Of a network that takes every patch as it is and looks at each voxel alone."""


class Network(nn.Module):
    """A network of the catalogue.

    `forward` maps (B, in_channels, *form.input_size(output)) to logits (B, classes, *output): in
    training, where the form has several outputs, to a tuple of them all.

    The first two arguments of a network are `in_channels` and `classes` (background included); all others
    are its options, with the paper's values as defaults, given by keyword from `train.network.options`.
    """

    form: Form
    small_width: ClassVar[float] = 0.25
    """By which the feature maps of the paper are multiplied in the profile `small`."""

    bfloat16_on_cpu: ClassVar[bool] = False
    """Whether training may compute in bfloat16 on a CPU. There the gradients that PyTorch 2.13 (oneDNN) gives
    for some 3D convolutions hold numbers nobody wrote; a network is trusted whose shapes a test checks."""

    @classmethod
    def plan(
        cls, options: Mapping[str, Any], patch_size: Index, spacing: Sequence[float], small: bool
    ) -> dict[str, Any]:
        """Options in full for these data and this machine, as a model's configuration holds them.

        Args:
            options: that were given.
            patch_size: (z, y, x) voxels.
            spacing: (z, y, x) millimetres.
            small: the profile is that for few CPU cores.
        """
        return {"width": cls.small_width if small else 1.0} | dict(options)


def maps(channels: int, width: float, least: int = 4) -> int:
    """The feature maps of a layer that has `channels` in the paper, in a network of another width.

    Raises:
        ValueError: there is no such width.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"width is {width:g}; it multiplies the feature maps, so it is above 0")
    return max(least, round(channels * width))


def as_slices(volume: Tensor) -> Tensor:
    """(B, C, Z, Y, X) as the slices it is made of, (B·Z, C, Y, X)."""
    return volume.transpose(1, 2).flatten(0, 1)


def as_volume(slices: Tensor, batch: int) -> Tensor:
    """Slices (B·Z, C, Y, X) as the volumes (B, C, Z, Y, X) they belong to."""
    return slices.view(batch, -1, *slices.shape[1:]).transpose(1, 2)
