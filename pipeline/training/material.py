"""What a network is made from, its configuration, and what a training gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.atomic import sha256_code, sha256_json
from pipeline.inference.composition import FULL, Gives
from pipeline.inference.model import Model, build
from pipeline.networks import plan_network
from pipeline.networks.weights import load_weights
from pipeline.params import TrainParams
from pipeline.sampling.split import RULE
from pipeline.training import CODE
from pipeline.training.profile import Profile
from pipeline.training.state import Curve
from pipeline.validation.drift import FINGERPRINT


@dataclass(frozen=True)
class Material:
    """What all networks of a training are made from."""

    organ: str
    plan: dict[str, Any]
    policy: dict[str, Any]
    """Of augmentation."""
    table: pd.DataFrame
    """All patches."""
    volumes: Path
    fingerprint: Mapping[str, Any]
    """Of the data, for the model's configuration."""
    split_rule: str
    """By which patients were dealt to folds."""


@dataclass(frozen=True)
class Trained:
    """A network that has been trained."""

    config: dict[str, Any]
    """All that is needed to use it, and what it was made of."""
    weights: dict[str, Tensor]
    curve: Curve
    key: str
    """Hash of all it was made of."""
    before: tuple["Trained", ...] = ()
    """Those whose predictions it is given."""
    folds: tuple["Trained", ...] = ()
    """Those that learned from other folds; the model is the mean of all."""


def as_model(trained: Trained) -> Model:
    """The model, ready for use."""
    network = build(trained.config)
    load_weights(network, trained.weights)
    before, folds = (tuple(map(as_model, others)) for others in (trained.before, trained.folds))
    return Model(trained.config, network.eval(), before, folds)


def config_of(
    material: Material, params: TrainParams, profile: Profile, before: Sequence[Trained]
) -> dict[str, Any]:
    """All that is needed to use the model, and what it was made of."""
    plan = material.plan
    z, y, x = (int(material.table[f"size_{axis}"].iloc[0]) for axis in "zyx")
    network, small = params.network, profile.name == "small"
    options = plan_network(network.name, network.options, (z, y, x), plan["spacing"], small=small)
    config = {
        "organ": material.organ,
        "modality": plan["modality"],
        "labels": plan["labels"],
        "recipe": plan["recipe"],
        "spacing": plan["spacing"],
        "patch_size": [z, y, x],
        "normalisation": plan["normalisation"],
        "network": {"name": network.name} | options,
        "training": params.model_dump(mode="json", exclude={"inference", "ensemble", "network"})
        | {"profile": profile.name, "steps": profile.steps, "batch_size": profile.batch_size}
        | {"init": network.init, RULE: material.split_rule},
        FINGERPRINT: material.fingerprint,
    }
    if params.before is None:
        return config
    # In full, as that of this network: what is planned is the same whether the parameters say it or not.
    config["training"]["before"]["network"] = before[0].config["network"]
    config["before"] = {
        "gives": params.before.gives,
        "grow_mm": params.before.grow_mm,
        "models": len(before),
        "keys": [one.key for one in before],
    }
    config["normalisation"] = channels_of(plan, params.before.gives)
    return config


def channels_of(plan: Mapping[str, Any], gives: Gives) -> list[dict[str, Any]]:
    """What a network sees after others: the images, and maps as further ones."""
    channels: list[dict[str, Any]] = list(plan["normalisation"])
    if gives == "maps":
        images = plan["recipe"]["channels"]
        channels += [
            {"image": images + number, "clip": [0.0, FULL], "mean": FULL / 2, "std": FULL / 2}
            for number in range(len(plan["labels"]))
        ]
    return channels


def key_of(config: dict[str, Any], material: Material, learned: pd.DataFrame, arithmetic: str) -> str:
    """Hash of all the training is made of; the tables carry the keys of the volumes.

    Nothing is learned from the fingerprint, which changes with every case that is only tested with.
    """
    tables = [
        pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes().hex()
        for table in (material.table, learned)
    ]
    made_of = {name: value for name, value in config.items() if name != FINGERPRINT}
    return sha256_json([made_of, material.policy, tables, arithmetic, sha256_code(*CODE)])[:32]
