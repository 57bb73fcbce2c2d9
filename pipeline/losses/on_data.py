"""The loss of the parameters, completed for the labels and the kind of annotation of the data."""

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ParamsError
from pipeline.params import LossParams

COVERED = 0.05
"""Of a slice, by a class that is in it, where the parameters do not say."""


def loss_on(plan: Mapping[str, Any], loss: LossParams) -> LossParams:
    """The loss of a network on the data of a plan: a weight a class, and slices where no more is known.

    Raises:
        ParamsError: a name among its weights is no label.
    """
    return _as_annotated(by_class(loss, plan["labels"]), plan["recipe"])


def by_class(loss: LossParams, labels: Mapping[str, int]) -> LossParams:
    """The loss with the weights of all classes in their order, if any was given.

    Args:
        loss: as the parameters say.
        labels: names and values in the label maps.

    Raises:
        ParamsError: a name is no label.
    """
    if not loss.weights:
        return loss
    classes = ["background", *sorted(labels, key=lambda name: labels[name])]
    stray = sorted(set(loss.weights) - set(classes))
    if stray:
        raise ParamsError(
            f"train.loss.weights has '{stray[0]}', which is no label", f"it may have {', '.join(classes)}"
        )
    return loss.model_copy(update={"weights": {name: loss.weights.get(name, 1.0) for name in classes}})


def _as_annotated(loss: LossParams, recipe: Mapping[str, Any]) -> LossParams:
    """The loss, of slices alone where nothing but these was annotated."""
    if recipe.get("annotation", {}).get("kind") != "image" or loss.presence:
        return loss
    return loss.model_copy(update={"presence": COVERED})
