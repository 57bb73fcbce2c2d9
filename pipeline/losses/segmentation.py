"""Soft Dice plus cross-entropy, of the voxels that are known.

Neither is a mean over patches. Where several processes hold a part of a batch each, what is added up is added
up over all of them (`whole`), and each computes the loss of the whole batch.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.labels import UNKNOWN
from pipeline.params import LossParams
from pipeline.training.exchange import whole

SMOOTH = 1e-5
LEAST = 1e-12
"""What weights add up to at least: of a batch in which nothing is known the loss is 0."""


def segmentation_loss(
    logits: Tensor,
    label: Tensor,
    params: LossParams,
    unknown: Tensor | None = None,
    boundary: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the cross-entropy and of what the soft Dice of the classes but background lacks.

    Dice is taken over the whole batch, so that a class missing from one patch does not count there
    (Drozdzal et al. 2016; batch Dice as in nnU-Net). An UNKNOWN voxel weighs nothing in either
    (Çiçek et al., MICCAI 2016).

    Args:
        logits: (B, classes, Z, Y, X), any float type; computed in float32.
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.
        params: the two weights, and how Dice and cross-entropy are taken.
        unknown: (B, classes) bool, classes that nobody looked for in an element; None: there are none.
        boundary: (B, Z, Y, X), what a voxel weighs more for lying between two objects; None: nothing.
    """
    logits = logits.float()
    if unknown is not None:
        logits, label = marginal(logits, label, unknown)
    loss = params.cross_entropy_weight * cross_entropy(logits, label, params, boundary)
    if params.dice_weight:
        loss = loss + params.dice_weight * dice_loss(logits.softmax(dim=1), label, params.dice)
    return loss


def cross_entropy(
    logits: Tensor, label: Tensor, params: LossParams, boundary: Tensor | None = None
) -> Tensor:
    """The cross-entropy, or focal loss, of the voxels that `params.sample` chooses: their weighted mean.

    A voxel counts (1 - p)^gamma, p being the probability of its true class (Lin et al., ICCV 2017). Random
    voxels are drawn from torch's generator: their mean is that of all in expectation. The hardest are those
    with the largest weighted loss (Shrivastava et al., CVPR 2016). Shares are of the known voxels: of random
    ones in expectation, as an UNKNOWN one that is drawn is no loss. Each of several processes draws from its
    own part, or takes the hardest of it.

    Args:
        logits: (B, classes, Z, Y, X), float32.
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.
        params: gamma, the share of the voxels, and the weights of the classes.
        boundary: (B, Z, Y, X), added to the weights of the classes; None: nothing.
    """
    share = params.sample.share
    if params.focal_gamma == 0 and share == 1 and not params.weights and boundary is None:
        return mean_cross_entropy(logits, label)
    losses = functional.cross_entropy(logits, label, reduction="none", ignore_index=UNKNOWN).flatten()
    if params.focal_gamma:
        # Not zero, of which a power below one has no slope.
        losses = losses * (1 - (-losses).exp()).clamp_min(1e-6) ** params.focal_gamma
    weights = voxel_weights(label, params, boundary).flatten()
    losses = losses * weights
    count = max(1, round(share * losses.numel()))
    if count < losses.numel() and params.sample.of == "random":
        drawn = torch.randint(losses.numel(), (count,), device=losses.device)
        losses, weights = losses[drawn], weights[drawn]
    elif count < losses.numel():
        known = (label != UNKNOWN).flatten()
        hardest = losses.masked_fill(~known, -1).topk(count).indices
        # As many are taken as could be known; a shape that depended on the data could not be compiled.
        within = (share * known.sum().double()).round().clamp_min(1)
        taken = torch.arange(count, device=losses.device) < within
        losses, weights = losses[hardest] * taken, weights[hardest] * taken
    return whole(losses.sum() / whole(weights.sum()).clamp_min(LEAST))


def mean_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """The mean over the known voxels, 0 if there are none.

    Args:
        logits: (B, classes, Z, Y, X), float32.
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.
    """
    total = functional.cross_entropy(logits, label, reduction="sum", ignore_index=UNKNOWN)
    return whole(total / whole((label != UNKNOWN).sum()).clamp_min(1))


def voxel_weights(label: Tensor, params: LossParams, boundary: Tensor | None = None) -> Tensor:
    """What each voxel weighs, (B, Z, Y, X) float32: its class's weight and `boundary`; 0 if UNKNOWN.

    Args:
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.
        params: with weights of all classes in their order, or of none.
        boundary: (B, Z, Y, X); None: nothing.
    """
    known = (label != UNKNOWN).float()
    weights = known
    if params.weights:
        weights = torch.zeros_like(known)
        for value, weight in enumerate(params.weights.values()):
            weights = torch.where(label == value, weight, weights)
    return weights if boundary is None else weights + boundary * known


def marginal(logits: Tensor, label: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and label in which a class that nobody looked for is background.

    There, the truth is background or any of these classes, so their probabilities are added up
    (the marginal loss of Shi et al., Medical Image Analysis 70, 2021).

    Args:
        logits: (B, classes, Z, Y, X), float32.
        label: (B, Z, Y, X), class indices or UNKNOWN, int64.
        unknown: (B, classes) bool; never the background.
    """
    unknown = unknown.to(logits.device)
    wide = unknown[..., None, None, None]
    merged = wide.clone()
    merged[:, 0] = True
    background = logits.masked_fill(~merged, -torch.inf).logsumexp(dim=1, keepdim=True)
    others = logits[:, 1:].masked_fill(wide[:, 1:], -torch.inf)
    # An UNKNOWN voxel is looked up as background, which it does not become.
    values = label.masked_fill(label == UNKNOWN, 0)
    hidden = unknown.gather(1, values.flatten(1)).view_as(label)
    return torch.cat([background, others], dim=1), label.masked_fill(hidden, 0)


def dice_loss(probabilities: Tensor, label: Tensor, form: Literal["log", "linear"]) -> Tensor:
    """What the soft Dice of the classes but background lacks, one number, 0 at best.

    `linear`: one minus their mean (Milletari et al. 2016). Its gradient shrinks with the probability that a
    class is given, so that a small one that the network has given up early on is found late. `log`: the mean
    of minus the logarithm (Wong et al., MICCAI 2018, with an exponent of one), whose gradient does not. It is
    taken of the classes that the batch holds: of the others it would punish any trace without bound.

    Args:
        probabilities: (B, classes, Z, Y, X), float32.
        label: (B, Z, Y, X), class indices or UNKNOWN, int64; what is UNKNOWN counts nowhere.
        form: log or linear.
    """
    dice, voxels = soft_dice(probabilities, label)
    if form == "linear":
        return 1 - dice.mean()
    held = (voxels > 0).to(dice.dtype)
    return -(dice.log() * held).sum() / held.sum().clamp_min(1)


def soft_dice(probabilities: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Soft Dice of each class but background over the batch (Milletari et al. 2016).

    Args:
        probabilities: (B, classes, Z, Y, X).
        label: (B, Z, Y, X), class indices or UNKNOWN, int64; what is UNKNOWN counts nowhere.

    Returns:
        Dice, and how many voxels the class has, (classes - 1,) each.
    """
    classes = torch.arange(1, probabilities.shape[1], device=label.device)
    truth = (label[:, None] == classes[:, None, None, None]).to(probabilities.dtype)
    # All classes, of which then some are taken: their layout, and so the order of a sum, stays what it was.
    predicted = (probabilities * (label != UNKNOWN)[:, None].to(probabilities.dtype))[:, 1:]
    axes = (0, 2, 3, 4)
    sums = torch.stack([(predicted * truth).sum(axes), predicted.sum(axes), truth.sum(axes)])
    overlap, given, voxels = whole(sums)
    return (2 * overlap + SMOOTH) / (given + voxels + SMOOTH), voxels
