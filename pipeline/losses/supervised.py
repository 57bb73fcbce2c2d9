"""The loss of all outputs of a network, each against its own target."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.labels import UNKNOWN
from pipeline.losses.segmentation import mean_cross_entropy, segmentation_loss
from pipeline.networks.base import Output
from pipeline.params import LossParams
from pipeline.training.exchange import whole

CONTOUR_WIDTH = 3
"""Voxels of the window in which a voxel at a border sees another class."""


def supervised_loss(
    given: Tensor | tuple[Tensor, ...],
    outputs: Sequence[Output],
    label: Tensor,
    params: LossParams,
    unknown: Tensor | None = None,
    boundary: Tensor | None = None,
) -> Tensor:
    """The weighted sum of the losses of a network's outputs, as deep supervision adds them.

    A sum, so that what auxiliary outputs say comes to the first layers on top of what the last one says
    (Lee et al., AISTATS 2015; Dou et al., Med Image Anal 41, 2017). An output that is coarser than the label
    is told the label's voxels nearest to the middle of its own (as in nnU-Net).

    Args:
        given: what the network returned in training: logits, or as many as there are `outputs`; the first of
            the label's size.
        outputs: of the network's form.
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.
        params: of the loss of the segmentation.
        unknown: (B, classes) bool, classes that nobody looked for in an element; None: there are none.
        boundary: (B, Z, Y, X), what a voxel of the segmentation weighs more; None: nothing.
    """
    logits = given if isinstance(given, tuple) else (given,)
    total = logits[0].new_zeros((), dtype=torch.float32)
    truth, weights = label, boundary
    for each, output in zip(logits, outputs, strict=True):
        if output.target != "presence":
            label = at_size(truth, each.shape[2:])
            boundary = None if weights is None else at_size(weights, each.shape[2:])
        if params.presence and output.target == "label":
            # Fewer voxels of a label that says which classes a slice holds would not say all of them.
            if each.shape[2:] != truth.shape[1:]:
                each = functional.interpolate(each.float(), truth.shape[1:], mode="trilinear")
            loss = _presence_loss(in_slices(each.float(), params.presence), truth, unknown)
        elif params.presence and output.target == "contour":
            # Where a slice's class lies in it, nobody knows.
            continue
        elif output.target == "label":
            loss = segmentation_loss(each, label, params, unknown, boundary)
        elif output.target == "contour":
            loss = _contour_loss(each.float(), label, unknown)
        else:
            loss = _presence_loss(each.float(), truth, unknown)
        total = total + output.weight * loss
    return total


def at_size(volumes: Tensor, size: Sequence[int]) -> Tensor:
    """The voxels nearest to the middle of those of a coarser grid.

    Args:
        volumes: (B, Z, Y, X), of any type.
        size: (z, y, x).
    """
    if volumes.shape[1:] == tuple(size):
        return volumes
    nearest = functional.interpolate(volumes[:, None].float(), tuple(size), mode="nearest-exact")
    return nearest[:, 0].to(volumes.dtype)


def contour(label: Tensor) -> Tensor:
    """Where a labelled object ends: voxels of a class that have another class beside them.

    A voxel of a class that has only its own class and UNKNOWN beside it may lie at a border or not.

    Args:
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.

    Returns:
        (B, Z, Y, X), 1 at a border, UNKNOWN where nobody can tell, else 0.
    """
    unknown = label == UNKNOWN
    values = label.float()
    # UNKNOWN is the highest value: it hides no lower one, and as background no higher one.
    layers = torch.stack([values.masked_fill(unknown, 0), -values, unknown.float()], dim=1)
    # A slice alone has no neighbours in z.
    window = [min(CONTOUR_WIDTH, edge) if edge > 1 else 1 for edge in label.shape[1:]]
    window = [edge if edge % 2 else edge - 1 for edge in window]
    around = [edge // 2 for edge in window]
    highest, lowest, beside = functional.max_pool3d(layers, window, 1, around).unbind(1)
    border = (highest != -lowest) & (values > 0)
    hidden = unknown | ((values > 0) & ~border & (beside > 0))
    return border.long().masked_fill(hidden, UNKNOWN)


def presence(label: Tensor, classes: int) -> Tensor:
    """Which classes each slice holds, (B, classes, Z, 1, 1), 1 or 0."""
    values = torch.arange(classes, device=label.device)[:, None, None, None]
    return (label[:, None] == values).any(dim=(3, 4), keepdim=True).float()


def in_slices(logits: Tensor, share: float) -> Tensor:
    """Logits of whether a slice holds a class, from the map of where it is active.

    A class activation map (Zhou et al., CVPR 2016) is what a network with a convolution for its last layer
    gives: its mean tells whether the class is there. Here it is the mean of its highest voxels, as many as
    the class covers (Durand et al., CVPR 2017): so a voxel above the background is one of the class. The
    outputs of several resolutions, each judged, are the multi-scale maps of Feng et al., MICCAI 2017.

    Args:
        logits: (B, classes, Z, Y, X).
        share: of a slice that a class covers.

    Returns:
        (B, classes, Z, 1, 1); 0 for the background.
    """
    maps = (logits - logits[:, :1]).flatten(3)
    highest = maps.topk(max(1, round(share * maps.shape[3])), dim=3).values.mean(3)
    return highest[..., None, None]


def _contour_loss(logits: Tensor, label: Tensor, unknown: Tensor | None) -> Tensor:
    """Cross-entropy of what is known of borders: background may be that of a class nobody looked for."""
    target = contour(label)
    if unknown is not None:
        partly = unknown.to(label.device).any(dim=1)[:, None, None, None]
        target = target.masked_fill(partly & (label == 0), UNKNOWN)
    return mean_cross_entropy(logits, target)


def _presence_loss(logits: Tensor, label: Tensor, unknown: Tensor | None) -> Tensor:
    """Binary cross-entropy of every class but the background, where it is known.

    A slice with UNKNOWN voxels and none of a class says nothing about its absence.
    """
    target = presence(label, logits.shape[1])[:, 1:]
    complete = (label != UNKNOWN).all(dim=(2, 3))[:, None, :, None, None]
    known = (target > 0) | complete
    if unknown is not None:
        known = known & ~unknown.to(label.device)[:, 1:, None, None, None]
    weight = known.float().expand_as(target)
    mean = functional.binary_cross_entropy_with_logits(logits[:, 1:], target, weight)
    return whole(mean * (weight.numel() / whole(weight.sum()).clamp_min(1)))
