"""Trainings that several processes go through, or one; test_distributed.py has torchrun start it.

    torchrun --nproc-per-node 2 distributed_training.py VOLUMES FOLDER

All in one start, as starting takes longer than training. The first process writes each to FOLDER.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from pipeline.networks import build_network
from pipeline.params import AugmentParams, TrainParams
from pipeline.training.data import PatchReader
from pipeline.training.distributed import first, part, processes
from pipeline.training.exchange import added, from_first
from pipeline.training.loop import train
from pipeline.training.setting import Setting
from pipeline.volumes.store import SUFFIX, write_case

STEPS, SIZE = 24, 8
BEGUN = "begun by one"
"""A training of which there are checkpoints already."""
SMALL = {"name": "residual_unet", "channels": (4, 6), "strides": [(1, 1, 1), (2, 2, 2)]}
BATCH_NORM = {"name": "unet", "width": 1 / 16, "levels": 2, "norm": "batch"}
LOSS = {"boundary_weights": {"w0": 5.0}, "focal_gamma": 2.0, "weights": {"background": 1.0, "cube": 3.0}}
CASES = {
    "plain": {},
    "unequal parts": {"batch_size": 3},
    # Before normalisation a bias changes nothing: its gradient is rounding, of which AdamW makes steps.
    "batch normalisation": {
        "network": BATCH_NORM,
        "frozen": r"(down|decoder)\.\d\.[03]\.bias",
        "seed": 1,
    },
    "weights": {"loss": LOSS},
    "linear": {"loss": {"dice": "linear"}},
    "presence": {"loss": {"presence": 0.1}},
    "contours": {"network": {"name": "dcan", "width": 1 / 16}, "steps": 4, "initial_seed": 0},
    "classes nobody looked for": {"annotated": ["cube", "another", "cube", ""] * 2},
    "frozen": {"frozen": "encoder"},
}
"""What two processes do as one does. With another initial seed (0; of contours 1) an activation comes so near
to 0 that rounding decides on which side: the ways part by a little more than the tolerance."""
RANDOM = {
    "dropout": {"dropout": 0.3},
    "dropout again": {"dropout": 0.3},
    "drop_connect": {"drop_connect": 0.3},
    "drop_connect again": {"drop_connect": 0.3},
    BEGUN: {},
}
"""What they do by draws of their own, or go on with."""


def make_volumes(folder):
    """Two cases: a bright cube in noise, which is the label, and voxels nobody knows in one of them."""
    for number in range(2):
        rng = np.random.default_rng(number)
        label = np.zeros((12, 12, 12), np.uint8)
        label[3:8, 3 + number : 9, 4:9] = 1
        image = (label * 2 + rng.normal(0, 0.3, label.shape)).astype(np.float32)
        if number:
            label[:, :2] = 255
        write_case(folder / f"case_{number}{SUFFIX}", image, label, {})


def sum_of_weights(network):
    return float(sum(weight.detach().double().abs().sum() for weight in network.parameters()))


def trained(
    volumes,
    checkpoints,
    network=SMALL,
    steps=STEPS,
    batch_size=4,
    annotated="",
    frozen="$.",
    watch=sum_of_weights,
    initial_seed=1,
    **params,
):
    """The training of a case; weights and curve."""
    params = TrainParams(
        **{"learning_rate": 3e-3, "validate_every": 6, "checkpoint_every": 8, "ema_decay": 0.9} | params
    )
    torch.manual_seed(initial_seed)
    options = {name: value for name, value in network.items() if name != "name"}
    network = build_network(network["name"], 1, 2, options)
    for name, weight in network.named_parameters():
        weight.requires_grad_(not re.match(frozen, name))
    setting = Setting(
        params=params,
        augment=AugmentParams(),
        steps=steps,
        spacing=(1.0, 1.0, 1.0),
        normalisation=[{"image": 0, "clip": [-5.0, 5.0], "mean": 0.0, "std": 1.0}],
        device=torch.device("cpu"),
        precision=torch.float32,
        checkpoints=checkpoints,
    )
    table = patches().assign(annotated=annotated)
    reader = PatchReader(
        table, volumes, batch_size, params.seed, ["cube"], network.form, part=part(batch_size)
    )
    return train(network, reader, watch, setting)


def patches():
    centres = [(z, y, x) for z in (4, 7) for y in (4, 7) for x in (5,)]
    frame = pd.DataFrame(centres * 2, columns=list("zyx"))
    frame["case"] = ["case_0"] * 4 + ["case_1"] * 4
    return frame.assign(weight=1.0, **{f"size_{axis}": SIZE for axis in "zyx"})


def main(volumes, folder):
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with processes():
        for name, case in (CASES | RANDOM).items():
            weights, curve = trained(volumes, folder / f"{name} checkpoints", **case)
            digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights.values()))
            assert from_first(digest.hexdigest()) == digest.hexdigest(), f"{name}: processes drift apart"
            assert from_first(curve) == curve, f"{name}: curves differ"
            seeds = [int(half) for half in added(halves_of_seed())]
            if first():
                save_file(
                    {key: tensor.contiguous() for key, tensor in weights.items()},
                    folder / f"{name}.safetensors",
                )
                (folder / f"{name}.json").write_text(json.dumps({"curve": curve, "seeds": seeds}))


def halves_of_seed():
    """What this process drew its last step by, at its place among the zeros of the other."""
    seed = torch.initial_seed()
    own = [float(seed >> 32), float(seed & 0xFFFFFFFF)]
    return [*own, 0.0, 0.0] if first() else [0.0, 0.0, *own]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
