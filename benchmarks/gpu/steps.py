"""Steps a second on a GPU: our loop against nnU-Net's own trainer, same network, patch, batch and device.

    python -m benchmarks.gpu.steps FOLDER [--of ours nnunet full] [--batch 9] [--trace]

FOLDER holds `project` and `nnunet` as `prepare.py` made and `volumes.py` unpacked them. Each is timed
with its own loading and augmentation, and over one batch again and again, which is what the device
alone allows.
`full` is Hounsfield's own network of the full profile.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from benchmarks.gpu import nnunet
from pipeline.networks import build_network, plan_network
from pipeline.networks.base import ANY_SIZE
from pipeline.networks.channels_last import prepare
from pipeline.params import AugmentParams, TrainParams
from pipeline.training import gpu, loop
from pipeline.training.data import PatchReader
from pipeline.training.feed import feed
from pipeline.training.profile import FULL, reading_threads
from pipeline.training.setting import Setting

WARM, TIMED = 60, 300
DEVICE = torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--of", nargs="+", default=["ours", "nnunet", "full"])
    parser.add_argument("--trace", action="store_true", help="also print what takes the device's time")
    parser.add_argument("--plain", action="store_true", help="also without compiler and CUDA graph")
    parser.add_argument("--batch", type=int, help="of nnU-Net's network; else that of its plan")
    asked = parser.parse_args()
    print(
        json.dumps({"card": torch.cuda.get_device_name(), "torch": torch.__version__, "batch": asked.batch}),
        flush=True,
    )
    rates: dict[str, dict[str, float]] = {}
    for name in asked.of:
        rates[name] = nnunets(asked.folder, asked.batch) if name == "nnunet" else ours(name, asked)
        print(json.dumps({name: rates[name]}), flush=True)
    if {"ours", "nnunet"} <= rates.keys():
        ratio = {key: round(rates["ours"][key] / rates["nnunet"][key], 2) for key in ("loading", "device")}
        print(json.dumps({"ours / nnunet": ratio}))


def nnunets(folder: Path, batch_size: int | None) -> dict[str, float]:
    trainer = nnunet.trainer(folder / "nnunet", DEVICE, batch_size)
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    began = time.perf_counter()
    for _ in range(WARM):
        trainer.train_step(next(trainer.dataloader_train))
    print("nnU-Net's first steps:", round(time.perf_counter() - began, 1), "s", flush=True)
    steps = TIMED
    loading = timed(steps, lambda _step: trainer.train_step(next(trainer.dataloader_train)))
    device = timed(steps, lambda _step: trainer.train_step(batch))
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        loader._finish()
    return {"loading": loading, "device": device}


def ours(name: str, asked: argparse.Namespace) -> dict[str, float]:
    project = asked.folder / "project" / "data"
    table = pd.read_parquet(project / "patches" / "hippocampus.parquet")
    z, y, x = (int(table[f"size_{axis}"].iloc[0]) for axis in "zyx")
    if name == "ours":
        network, window, planned = nnunet.network(asked.folder / "nnunet")
        assert window == (z, y, x), (window, (z, y, x))
        network.form = ANY_SIZE
        batch_size = asked.batch or planned
    else:
        options = plan_network("residual_unet", {}, (z, y, x), (1.0, 1.0, 1.0), small=False)
        network = build_network("residual_unet", 1, 3, options)
        batch_size = FULL.batch_size
    setting = Setting(
        params=TrainParams(learning_rate=FULL.learning_rate),
        augment=AugmentParams.model_validate(
            json.loads((project / "augmentation" / "hippocampus.json").read_text())["params"]
        ),
        steps=10**6,
        spacing=(1.0, 1.0, 1.0),
        normalisation=json.loads((project / "plans" / "hippocampus.json").read_text())["normalisation"],
        device=DEVICE,
        precision=torch.bfloat16,
        checkpoints=asked.folder / "checkpoints",
    )
    reader = PatchReader(
        table,
        project / "volumes" / "hippocampus",
        batch_size,
        0,
        ["anterior", "posterior"],
        threads=reading_threads(DEVICE),
        pinned=True,
    )
    found = {}
    if asked.plain:
        with patch.object(loop, "compiled", lambda function: function):
            with patch.object(gpu.Replayed, "UNRECORDED", 10**9):
                found["plain"] = rate(network, reader, setting)["device"]
            found["graph alone"] = rate(network, reader, setting)["device"]
    return found | rate(network, reader, setting, asked.trace)


def rate(network: Any, reader: PatchReader, setting: Setting, trace: bool = False) -> dict[str, float]:
    network = network.to(DEVICE)
    torch.backends.cudnn.benchmark = True
    prepare(network)
    optimizer = loop._optimizer(network, setting)
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    learn = loop._learner(network, optimizer, average, setting, reader.shape[0])
    batches: Any = feed(reader, setting, 0)
    unread: list[torch.Tensor] = []

    def step(number: int, batch: Any = None) -> None:
        unread.append(learn(batch or next(batches)[1], number, FULL.learning_rate))
        if len(unread) == loop.READ_EVERY:
            torch.stack(unread).tolist()
            unread.clear()

    began = time.perf_counter()
    for number in range(WARM):
        step(number)
    torch.cuda.synchronize()
    print("our first steps:", round(time.perf_counter() - began, 1), "s", flush=True)
    one = next(batches)[1]
    found = {"loading": timed(TIMED, step), "device": timed(TIMED, lambda number: step(number, one))}
    found["share"] = round(found["loading"] / found["device"], 3)
    reading = time.perf_counter()
    for number in range(20):
        reader.batch(number + 5000)
    found["read_ms"] = round((time.perf_counter() - reading) / 20 * 1e3, 2)
    found["loss"] = round(float(np.mean([float(value) for value in unread])) if unread else 0.0, 3)
    found["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    if trace:
        profile(lambda: timed(10, step))
    batches.close()
    return found


def timed(steps: int, step: Any) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for number in range(steps):
        step(number)
    torch.cuda.synchronize()
    return round(steps / (time.perf_counter() - began), 2)


def profile(work: Any) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as traced

    with traced(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90))


if __name__ == "__main__":
    main()
