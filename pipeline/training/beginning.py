"""What a training begins with: weights drawn at random or those of a model, and which of them stay so."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.atomic import read_json
from pipeline.errors import ParamsError
from pipeline.inference.model import CONFIG, WEIGHTS, parts
from pipeline.networks.base import Network
from pipeline.networks.depth import depths
from pipeline.networks.weights import draw_normal, stored
from pipeline.params import TrainParams
from pipeline.progress import console
from pipeline.registry.folders import registered
from pipeline.sampling.split import RULE

FETCH = (
    "fetch it by hounsfield start-from ORGAN OTHER, open the run with --start warm (from the organ's own "
    "champion), or set train.start to scratch"
)


def begin(network: Network, params: TrainParams, config: Mapping[str, Any], champions: Path) -> None:
    """Bring `network` to what its training begins with.

    Args:
        network: as it was built, on its device.
        params: of its training.
        config: of the model it will be.
        champions: folder of the models that a training may begin with, each named by its content.

    Raises:
        MissingError: the model that `params.start` names is not there.
        ParamsError: with transfer zero, a weight would be random, or the model needs others before it; with
            partial, no layer would be left to learn; or weights would stay that have learned from the
            watched fold.
    """
    if params.network.init == "normal":
        draw_normal(network)
    if params.start == "scratch":
        return
    model = registered(champions, params.start, "train.start", FETCH)
    if params.transfer == "zero" and "before" in read_json(model / CONFIG):
        raise ParamsError(
            f"transfer is zero, but the model {params.start[:12]} is given what networks before it find, and "
            "these would not come with it",
            "set train.transfer to partial or full, or start from the model of one network alone",
        )
    place = without_fold(model, config["organ"], params.fold, config["training"][RULE])
    if place is None:
        _begin_at_random(params)
        return
    taken = begin_from(network, place)
    every = len(stored(network))
    console.print(f"starting from {len(taken)} of {every} weights of the model {params.start[:12]}")
    if params.transfer == "zero" and len(taken) < every:
        raise ParamsError(
            f"transfer is zero, but {every - len(taken)} weights would be random: the model "
            f"{params.start[:12]} is of another network, width or number of labels",
            "set train.network to what it is, or train.transfer to partial or full",
        )
    if params.transfer == "partial":
        freeze(network, taken, params.frozen_share, config)


def check_start(
    organ: str, params: TrainParams, folds: Sequence[int], split_rule: str, champions: Path
) -> None:
    """Refuse weights that cannot stay in a later network of an ensemble before the first one is trained.

    Args:
        organ: to be trained.
        params: of its training.
        folds: that its networks leave out, one each.
        split_rule: by which patients are dealt to folds.
        champions: folder of the models that a training may begin with, each named by its content.

    Raises:
        MissingError: the model that `params.start` names is not there.
        ParamsError: weights are to stay that have learned from a fold that is watched.
    """
    if params.start == "scratch" or params.transfer == "full":
        return
    model = registered(champions, params.start, "train.start", FETCH)
    for fold in folds:
        if without_fold(model, organ, fold, split_rule) is None:
            _begin_at_random(params.model_copy(update={"fold": fold}))


def _begin_at_random(params: TrainParams) -> None:
    """Leave a network its random weights, as the model has learned from the fold that it is judged by.

    Raises:
        ParamsError: some of the model's weights were to stay as they are.
    """
    model = params.start[:12]
    said = f"the model {model} has learned from cases of fold {params.fold}, which a network is judged by"
    if params.transfer != "full":
        raise ParamsError(
            f"transfer is {params.transfer}, but {said}",
            "set train.ensemble to 1 and train.fold to the one that the model left out (of the same "
            "validate.folds and split_seed), or transfer to full",
        )
    console.print(f"{said}: it begins with random weights")


def without_fold(folder: Path, organ: str, fold: int, split_rule: str) -> Path | None:
    """Where, in the folder of a registered model, the network lies that left a fold out; else the first one.

    A network of an ensemble is judged by the fold it leaves out, and label maps are tidied up by that: what
    it begins with shall not have learned from it. None, where every network of the organ's own has. Of
    another rule of the split the fold is another one, even of the same number.
    """
    config = read_json(folder / CONFIG)
    _, others = parts(config)
    places = [folder, *(folder / place for place in others)]
    trainings = {place: read_json(place / CONFIG).get("training", {}) for place in places}
    for place, training in trainings.items():
        # A model of before this was recorded is taken to be of the rule of now.
        if training.get("fold") == fold and training.get(RULE, split_rule) == split_rule:
            return place
    own = config.get("organ") == organ and "fold" in trainings[folder]
    return None if own else folder


def begin_from(network: nn.Module, folder: Path) -> set[str]:
    """Give `network` the weights of the model in `folder`, wherever name and shape are the same.

    What the model does not have (another number of labels, another width) keeps its random weights.

    Args:
        network: with random weights.
        folder: of the model.

    Returns:
        The names of what was taken.
    """
    theirs = load_file(folder / WEIGHTS)
    own = stored(network)
    fitting = [name for name in own if name in theirs and theirs[name].shape == own[name].shape]
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(theirs[name])
    return set(fitting)


def freeze(network: Network, taken: set[str], share: float, config: Mapping[str, Any]) -> None:
    """Take the first layers out of the training (Yosinski et al., NIPS 2014).

    Running statistics of normalisation are no weights: they go on following the data, as they have to where
    these come from another scanner or modality (AdaBN, Li et al. 2016).

    Args:
        network: on its device.
        taken: names of the weights that are a model's; random ones are never frozen.
        share: of the layers, those first that an image meets first.
        config: of the model, with patch size and images.

    Raises:
        ParamsError: no weight would be left to learn.
    """
    size = network.form.input_size(network.form.fit(config["patch_size"]))
    device = next(network.parameters()).device
    order = depths(network, torch.zeros(1, len(config["normalisation"]), *size, device=device))
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in order))
    first = set(layers[: round(share * len(layers))])
    frozen = [
        weight.requires_grad_(False)
        for name, weight in network.named_parameters()
        if name in taken and name.rpartition(".")[0] in first
    ]
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ParamsError(
            f"transfer is partial, but a frozen_share of {share:g} leaves no weight to learn",
            "lower train.frozen_share, or set train.transfer to zero",
        )
    count = sum(weight.numel() for weight in frozen)
    console.print(f"{len(first)} of {len(layers)} layers, {count:,} weights, stay as they are")
