"""Soft Dice plus cross-entropy."""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.params import LossParams

SMOOTH = 1e-5


def segmentation_loss(
    logits: Tensor, label: Tensor, params: LossParams, unknown: Tensor | None = None
) -> Tensor:
    """Weighted sum of the cross-entropy and one minus the mean soft Dice of the classes but background.

    Dice is taken over the whole batch, so that a class missing from one patch does not count there
    (Drozdzal et al. 2016; batch Dice as in nnU-Net).

    Args:
        logits: (B, classes, Z, Y, X), any float type; computed in float32.
        label: (B, Z, Y, X), class indices, int64.
        params: the two weights.
        unknown: (B, classes) bool, classes that nobody looked for in an element; None: there are none.
    """
    logits = logits.float()
    if unknown is not None:
        logits, label = marginal(logits, label, unknown)
    loss = params.cross_entropy_weight * cross_entropy(logits, label, params)
    if params.dice_weight:
        loss = loss + params.dice_weight * (1 - soft_dice(logits.softmax(dim=1), label).mean())
    return loss


def cross_entropy(logits: Tensor, label: Tensor, params: LossParams) -> Tensor:
    """The cross-entropy, or focal loss, of the voxels that `params.sample` chooses, averaged.

    A voxel counts (1 - p)^gamma, p being the probability of its true class (Lin et al., ICCV 2017). Random
    voxels are drawn from torch's generator: their mean is that of all in expectation. The hardest are those
    with the largest loss (Shrivastava et al., CVPR 2016).

    Args:
        logits: (B, classes, Z, Y, X), float32.
        label: (B, Z, Y, X), class indices, int64.
        params: gamma, and the share of the voxels.
    """
    if params.focal_gamma == 0 and params.sample.share == 1:
        return functional.cross_entropy(logits, label)
    losses = functional.cross_entropy(logits, label, reduction="none").flatten()
    if params.focal_gamma:
        # Not zero, of which a power below one has no slope.
        losses = losses * (1 - (-losses).exp()).clamp_min(1e-6) ** params.focal_gamma
    count = max(1, round(params.sample.share * losses.numel()))
    if count == losses.numel():
        return losses.mean()
    if params.sample.of == "hardest":
        return losses.topk(count).values.mean()
    return losses[torch.randint(losses.numel(), (count,), device=losses.device)].mean()


def marginal(logits: Tensor, label: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and label in which a class that nobody looked for is background.

    There, the truth is background or any of these classes, so their probabilities are added up
    (the marginal loss of Shi et al., Medical Image Analysis 70, 2021).

    Args:
        logits: (B, classes, Z, Y, X), float32.
        label: (B, Z, Y, X), class indices, int64.
        unknown: (B, classes) bool; never the background.
    """
    unknown = unknown.to(logits.device)
    wide = unknown[..., None, None, None]
    merged = wide.clone()
    merged[:, 0] = True
    background = logits.masked_fill(~merged, -torch.inf).logsumexp(dim=1, keepdim=True)
    others = logits[:, 1:].masked_fill(wide[:, 1:], -torch.inf)
    hidden = unknown.gather(1, label.flatten(1)).view_as(label)
    return torch.cat([background, others], dim=1), label.masked_fill(hidden, 0)


def soft_dice(probabilities: Tensor, label: Tensor) -> Tensor:
    """Soft Dice of each class but background over the batch (Milletari et al. 2016), (classes - 1,).

    Args:
        probabilities: (B, classes, Z, Y, X).
        label: (B, Z, Y, X), class indices, int64.
    """
    classes = torch.arange(1, probabilities.shape[1], device=label.device)
    truth = (label[:, None] == classes[:, None, None, None]).to(probabilities.dtype)
    predicted = probabilities[:, 1:]
    axes = (0, 2, 3, 4)
    overlap = (predicted * truth).sum(axes)
    total = predicted.sum(axes) + truth.sum(axes)
    return (2 * overlap + SMOOTH) / (total + SMOOTH)
