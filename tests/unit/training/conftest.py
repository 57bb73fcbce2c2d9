"""A training on two small cases, from nothing or from its last checkpoint."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.networks import build_network
from pipeline.params import AugmentParams, TrainParams
from pipeline.training.data import PatchReader
from pipeline.training.loop import train
from pipeline.training.setting import Setting
from pipeline.volumes.store import SUFFIX, write_case

OPTIONS = {"channels": (4, 6), "strides": [(1, 1, 1), (2, 2, 2)]}

STEPS = 11
SIZE = 8
NORMALISATION = [{"image": 0, "clip": [-5.0, 5.0], "mean": 0.0, "std": 1.0}]
DEFAULTS = {"learning_rate": 3e-3, "validate_every": 3, "checkpoint_every": 4, "ema_decay": 0.9}


class Stop(Exception):
    """Stands for whatever ends a process in the midst of its work."""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Two cases: a bright cube in noise, which is the label."""
    folder = tmp_path_factory.mktemp("volumes")
    for number in range(2):
        write_case(folder / f"case_{number}{SUFFIX}", *cube(number), {})
    return folder


def cube(number):
    """Image and label of a case."""
    rng = np.random.default_rng(number)
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:8, 3 + number : 9, 4:9] = 1
    return (label * 2 + rng.normal(0, 0.3, label.shape)).astype(np.float32), label


@pytest.fixture
def training(volumes, tmp_path):
    """Runs a training, by default from nothing, and returns weights and curve."""

    def run(
        watch=lambda _network: 0.5,
        checkpoints="checkpoints",
        normalisation=None,
        steps=STEPS,
        rows=8,
        annotated="",
        network=("residual_unet", OPTIONS),
        volumes=volumes,
        batch_size=2,
        before=lambda _network: None,
        **params,
    ):
        params = TrainParams(**(DEFAULTS | params))
        torch.manual_seed(params.seed)
        network = build_network(network[0], 1, 2, network[1])
        setting = Setting(
            params=params,
            augment=AugmentParams(),
            steps=steps,
            spacing=(1.0, 1.0, 1.0),
            normalisation=normalisation or NORMALISATION,
            device=torch.device("cpu"),
            precision=getattr(torch, "float32" if params.precision == "auto" else params.precision),
            checkpoints=tmp_path / checkpoints,
        )
        table = patches().head(rows).assign(annotated=annotated)
        reader = PatchReader(table, volumes, batch_size, params.seed, ["cube"], network.form)
        before(network)
        return train(network, reader, watch, setting)

    return run


def patches():
    centres = [(z, y, x) for z in (4, 7) for y in (4, 7) for x in (5,)]
    frame = pd.DataFrame(centres * 2, columns=list("zyx"))
    frame["case"] = ["case_0"] * 4 + ["case_1"] * 4
    return frame.assign(weight=1.0, **{f"size_{axis}": SIZE for axis in "zyx"})


def sum_of_weights(network):
    """A figure that is another for every other network."""
    return float(sum(weight.detach().double().abs().sum() for weight in network.parameters()))


def assert_same(one, other):
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, weight in one[0].items():
        assert torch.equal(weight, other[0][name]), name


def steps_on_disk(folder):
    return sorted(int(path.name.split("_")[1]) for path in folder.glob("step_*"))
