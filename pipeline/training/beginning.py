"""Where the weights come from that a training begins with: drawn at random, or those of a model."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import MissingError
from pipeline.inference.model import WEIGHTS
from pipeline.networks.weights import stored
from pipeline.progress import console
from pipeline.registry.artifacts import content_of


def begin_from(network: nn.Module, folder: Path) -> None:
    """Give `network` the weights of the model in `folder`, wherever name and shape are the same.

    What the model does not have (another number of labels, another width) keeps its random weights.

    Args:
        network: with random weights.
        folder: of a model; it is named by the hash of its content.

    Raises:
        MissingError: it is not there, or is another model.
    """
    if not folder.is_dir() or content_of(folder) != folder.name:
        raise MissingError(
            f"the model {folder.name} that train.start names is not at {folder}",
            "open the run with --start warm, which fetches it, or set train.start to scratch",
        )
    theirs = load_file(folder / WEIGHTS)
    own = stored(network)
    fitting = [name for name in own if name in theirs and theirs[name].shape == own[name].shape]
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(theirs[name])
    console.print(f"starting from {len(fitting)} of {len(own)} weights of the model {folder.name[:12]}")
