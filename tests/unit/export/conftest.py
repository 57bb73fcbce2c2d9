import itertools
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from pipeline.atomic import sha256_file, write_json
from pipeline.inference.model import build, parts
from pipeline.networks.weights import stored
from pipeline.volumes.recipe import Recipe

RESIDUAL_UNET = {"name": "residual_unet", "channels": [4, 6], "strides": [[1, 1, 1], [2, 2, 2]]}
WINDOW = {"clip": [-1000.0, 1000.0], "mean": -200.0, "std": 250.0}


@pytest.fixture
def save_network():
    """Saves a model as `train` would, with weights as they are drawn, or that learned `learn` by heart:
    an image (C, Z, Y, X), normalised, and its classes (Z, Y, X)."""

    def save(folder, network=None, *, channels=1, patch_size=(8, 12, 16), learn=None, **config):
        labels = {"large": 7, "small": 3}
        modality = config.get("modality", "CT")
        recipe = asdict(Recipe(modality, labels, (2.0, 1.0, 1.0), channels=channels))
        defaults = {
            "organ": "liver",
            "modality": modality,
            "labels": labels,
            "recipe": recipe,
            "spacing": [2.0, 1.0, 1.0],
            "patch_size": list(patch_size),
            "normalisation": [{"image": image} | WINDOW for image in range(channels)],
            "network": network or RESIDUAL_UNET,
            "training": {},
        }
        whole = defaults | config
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(channels)
        network = build(whole)
        if learn is not None:
            by_heart(network, *learn)
        save_file(
            {key: weight.contiguous() for key, weight in stored(network).items()},
            folder / "weights.safetensors",
        )
        places = [
            "weights.safetensors",
            *(f"{place}/config.json" for place in itertools.chain(*parts(whole))),
        ]
        write_json(
            folder / "config.json",
            whole | {"sha256": {place: sha256_file(folder / place) for place in places}},
        )
        return folder

    return save


def by_heart(network, image, classes):
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        given = network(image[None] + torch.randn_like(image[None]) / 10)
        logits = given[0] if isinstance(given, tuple) else given
        loss = torch.nn.functional.cross_entropy(logits, classes[None])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
