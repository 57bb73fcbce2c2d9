"""The U-Net in two and three dimensions: a path that contracts, one that expands, joined at each resolution.

2D: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015. 3D: Çiçek, Abdulkadir, Lienkamp, Brox and Ronneberger, "3D U-Net: Learning Dense Volumetric
Segmentation from Sparse Annotation", MICCAI 2016.

Deviations: convolutions are padded by default, so that as many voxels come out as go in; `padding: valid`
is the papers'. The dropout of the 2D paper's deepest layers is an option, off by default. With
`downsample: stride` a strided convolution takes the place of pooling, with `deep_supervision` the coarser
resolutions of the expanding path are judged, too: neither is in the papers.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.base import Form, Index, Network, Output, as_slices, as_volume, maps

Norm = Literal["paper", "batch", "instance", "none"]
LEVELS = {2: 5, 3: 4}
"""Resolutions in the papers, by dimensions."""
FIRST = {2: 64, 3: 32}
"""Feature maps of the first convolution in the papers."""


class UNet(Network):
    """The U-Net.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as in the papers.
        dims: 2: slice by slice; 3: volumes.
        padding: same, or valid as in the papers.
        norm: paper: none in 2D, batch in 3D.
        downsample: pool as in the papers, or stride.
        dropout: probability before the deepest resolution is left.
        deep_supervision: of the expanding path, each resolution by half the weight of the finer one.
        levels: resolutions; None: as in the papers, 5 in 2D and 4 in 3D.
    """

    small_width = 0.125

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: float = 1.0,
        dims: Literal[2, 3] = 3,
        padding: Literal["same", "valid"] = "same",
        norm: Norm = "paper",
        downsample: Literal["pool", "stride"] = "pool",
        dropout: float = 0.0,
        deep_supervision: bool = False,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        _check(dims, padding, norm, downsample)
        depth = LEVELS[dims] if levels is None else levels
        self._dims, self._downsample = dims, downsample
        norm = ("none" if dims == 2 else "batch") if norm == "paper" else norm
        pad = 1 if padding == "same" else 0
        counts = [maps(FIRST[dims] * 2**level, width) for level in range(depth + 1)]

        def double(before: int, between: int, after: int) -> nn.Sequential:
            return nn.Sequential(
                *_convolution(dims, before, between, pad, norm),
                *_convolution(dims, between, after, pad, norm),
            )

        # In 3D, maps are doubled before pooling, not after it.
        outs = counts[:depth] if dims == 2 else counts[1:]
        inputs = [in_channels, *outs[:-1]]
        firsts = outs if dims == 2 else counts[:depth]
        self.down = nn.ModuleList(
            double(before, between, after)
            for before, between, after in zip(inputs, firsts, outs, strict=True)
        )
        convolution, up = (nn.Conv2d, nn.ConvTranspose2d) if dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
        self.stride = nn.ModuleList(
            convolution(each, each, 2, 2) for each in (outs[:-1] if downsample == "stride" else ())
        )
        self.dropout = nn.Dropout(dropout)
        pairs = list(zip(outs[:0:-1], outs[-2::-1], strict=True))
        # The figure that the 3D paper states has no biases here.
        self.up = nn.ModuleList(
            up(deep, fine if dims == 2 else deep, 2, 2, bias=dims == 2) for deep, fine in pairs
        )
        self.decoder = nn.ModuleList(
            double(2 * fine if dims == 2 else deep + fine, fine, fine) for deep, fine in pairs
        )
        heads = len(pairs) if deep_supervision else min(1, len(pairs))
        finest_first = [fine for _, fine in reversed(pairs)] or [outs[0]]
        self.heads = nn.ModuleList(convolution(each, classes, 1) for each in finest_first[: max(heads, 1)])
        self.form = _form(dims, depth, pad, len(self.heads), downsample)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z', Y', X'); a tuple in deep supervision."""
        features, skips = as_slices(image) if self._dims == 2 else image, []
        for level, block in enumerate(self.down):
            features = block(features)
            if level < len(self.down) - 1:
                skips.append(features)
                features = self._coarser(features, level)
        features = self.dropout(features)
        decoded = [features]
        for up, block in zip(self.up, self.decoder, strict=True):
            features = up(features)
            features = block(torch.cat([_cropped(skips.pop(), features), features], dim=1))
            decoded.append(features)
        logits = [head(each) for head, each in zip(self.heads, reversed(decoded), strict=False)]
        size = logits[0].shape[2:]
        mode = "bilinear" if self._dims == 2 else "trilinear"
        wanted = logits if self.training else logits[:1]
        full = [
            each if each.shape[2:] == size else functional.interpolate(each, size, mode=mode)
            for each in wanted
        ]
        if self._dims == 2:
            full = [as_volume(each, image.shape[0]) for each in full]
        return full[0] if len(full) == 1 else tuple(full)

    def _coarser(self, features: Tensor, level: int) -> Tensor:
        if self._downsample == "stride":
            strided: Tensor = self.stride[level](features)
            return strided
        return functional.max_pool2d(features, 2) if self._dims == 2 else functional.max_pool3d(features, 2)


def _check(dims: int, padding: str, norm: str, downsample: str) -> None:
    for value, name, known in (
        (dims, "dims", (2, 3)),
        (padding, "padding", ("same", "valid")),
        (norm, "norm", ("paper", "batch", "instance", "none")),
        (downsample, "downsample", ("pool", "stride")),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(map(str, known))}")


def _convolution(dims: int, before: int, after: int, pad: int, norm: str) -> list[nn.Module]:
    """A 3-wide convolution, its normalisation, ReLU."""
    layers: list[nn.Module] = [(nn.Conv2d if dims == 2 else nn.Conv3d)(before, after, 3, padding=pad)]
    if norm == "batch":
        layers.append((nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(after))
    elif norm == "instance":
        layers.append((nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(after, affine=True))
    return [*layers, nn.ReLU(inplace=True)]


def _cropped(skip: Tensor, features: Tensor) -> Tensor:
    """The middle of `skip`, as large as `features`."""
    sides = [(wide - edge) // 2 for wide, edge in zip(skip.shape[2:], features.shape[2:], strict=True)]
    box = (slice(side, side + edge) for side, edge in zip(sides, features.shape[2:], strict=True))
    return skip[(slice(None), slice(None), *box)]


def _form(dims: Literal[2, 3], depth: int, pad: int, outputs: int, downsample: str) -> Form:
    step = 2 ** (depth - 1)
    # What an output voxel sees to each side, and how many voxels are lost there, in voxels of the finest.
    sees = lost = 0
    for level in range(depth):
        sees += 2 * 2**level
        lost += 2 * 2**level
        if level < depth - 1:
            sees += 2**level
    for level in reversed(range(depth - 1)):
        sees += 2**level + 2 * 2**level
        lost += 2 * 2**level
    margin = 0 if pad else lost
    # The coarsest resolution has an edge of at least one: n = step·k + (what its way down and up loses).
    remainder = 0 if pad else (-2 * sum(2 * 2**level for level in range(depth - 1))) % step
    return Form(
        dims,
        receptive_field=_index(dims, 2 * sees + 1, 1),
        margin=_index(dims, margin, 0),
        multiple=_index(dims, step, 1),
        remainder=_index(dims, remainder, 0),
        outputs=tuple(Output(0.5**level) for level in range(outputs)),
    )


def _index(dims: int, edge: int, flat: int) -> Index:
    return (edge if dims == 3 else flat, edge, edge)


NETWORK = UNet
