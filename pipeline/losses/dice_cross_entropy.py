"""Soft Dice plus cross-entropy."""

from torch import Tensor
from torch.nn import functional

from pipeline.params import LossParams

SMOOTH = 1e-5


def dice_cross_entropy(logits: Tensor, label: Tensor, params: LossParams) -> Tensor:
    """Weighted sum of the cross-entropy and one minus the mean soft Dice of the classes but background.

    Dice is taken over the whole batch, so that a class missing from one patch does not count there
    (Drozdzal et al. 2016; batch Dice as in nnU-Net).

    Args:
        logits: (B, classes, Z, Y, X), any float type; computed in float32.
        label: (B, Z, Y, X), class indices, int64.
        params: the two weights.
    """
    logits = logits.float()
    loss = params.cross_entropy_weight * functional.cross_entropy(logits, label)
    if params.dice_weight:
        loss = loss + params.dice_weight * (1 - soft_dice(logits.softmax(dim=1), label).mean())
    return loss


def soft_dice(probabilities: Tensor, label: Tensor) -> Tensor:
    """Soft Dice of each class but background over the batch (Milletari et al. 2016), (classes - 1,).

    Args:
        probabilities: (B, classes, Z, Y, X).
        label: (B, Z, Y, X), class indices, int64.
    """
    classes = probabilities.shape[1]
    truth = functional.one_hot(label, classes).movedim(-1, 1)[:, 1:].to(probabilities.dtype)
    predicted = probabilities[:, 1:]
    axes = (0, 2, 3, 4)
    overlap = (predicted * truth).sum(axes)
    total = predicted.sum(axes) + truth.sum(axes)
    return (2 * overlap + SMOOTH) / (total + SMOOTH)
