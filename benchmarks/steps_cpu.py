"""Steps a second on this CPU: our loop against nnU-Net's own trainer, same network, patch, batch and threads.

    python -m benchmarks.steps_cpu SOURCE [--folder KEPT] [--rounds 5] [--steps 10] [--trace]

SOURCE is the Medical Segmentation Decathlon's hippocampus task (imagesTr, labelsTr, dataset.json), which
nnU-Net plans for and both learn from, each with its own loading and augmentation; what is made of it stays in
`--folder`, if given. nnU-Net's trainer is its variant without deep supervision, so that the network computes
the same in both.

Each lives in a process of its own, in nnU-Net's environment, and they make a few steps in turn, so that
whatever else runs slows all; out of turn a process is stopped together with those it started (nnU-Net
augments in as many as it does by default), so that none works ahead at another's cost. Printed, a line of
JSON each: the median over the rounds of steps a second, with loading and of one batch again and again, and
the ratio to nnU-Net.

nnU-Net computes in float32 on a CPU. So does our loop with this network; its time in bfloat16, which
`train.precision` can ask for, stands beside it where the processor computes in that.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEER = ("torch==2.13.0", "nnunetv2==2.8.1")
NNUNET = "nnunet, float32"
WORKERS = (NNUNET, "ours, float32", "ours, bfloat16")
WARM = 3
Step = Callable[[bool], None]
"""Makes one step, with a new batch or with the first one again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--folder", type=Path, help="where the prepared cases are, or are to stay")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each in a round")
    parser.add_argument("--trace", action="store_true", help="also print what takes our time")
    parser.add_argument("--make", choices=WORKERS, help="what the peer's interpreter is called with")
    asked = parser.parse_args()
    if asked.make:
        work(asked)
        return
    import pandas as pd

    from benchmarks.gpu.prepare import ingest, preprocess, split
    from benchmarks.peers import peer_python

    peer = peer_python("nnunet", *PEER)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = asked.folder or Path(scratch) / "prepared"
        if not prepared.exists():
            given, held_out = split(asked.source, Path(scratch))
            accepted = ingest(given, held_out, prepared)
            preprocess(given, accepted, peer, prepared)
        # nnU-Net's environment reads no Parquet.
        table = prepared / "project" / "data" / "patches" / "hippocampus.parquet"
        pd.read_parquet(table).to_csv(table.with_suffix(".csv"), index=False)
        compare(peer, prepared, asked)


def compare(peer: Path, folder: Path, asked: argparse.Namespace) -> None:
    """Time all in turn."""
    import torch

    from benchmarks.peers import InTurn
    from pipeline.training.profile import precision

    names = list(WORKERS)
    if precision(None, torch.device("cpu")) != torch.bfloat16:
        names.remove("ours, bfloat16")
    workers: list[InTurn] = []
    try:
        for name in names:
            command: list[str | Path] = [peer, __file__, folder, "--make", name, "--folder", folder]
            command += ["--trace"] * asked.trace
            workers.append(InTurn(command, name, {}))
            print(json.dumps({"of": name} | workers[-1].ready()), flush=True)
        rates: dict[tuple[str, bool], list[float]] = {
            (name, new): [] for name in names for new in (True, False)
        }
        for number in range(asked.rounds):
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr)
            for new in (True, False):
                for worker in workers:
                    seconds = worker.ask([asked.steps, new])
                    rates[worker.name, new].append(asked.steps / seconds)
    finally:
        for worker in workers:
            worker.end()
    medians = {key: statistics.median(found) for key, found in rates.items()}
    for name in names:
        found: dict[str, Any] = {"of": name}
        for said, new in (("with_loading", True), ("one_batch", False)):
            rate = medians[name, new]
            ratio = round(rate / medians[NNUNET, new], 2)
            found[said] = {"steps_per_s": round(rate, 3), "ratio": ratio}
        print(json.dumps(found), flush=True)


def work(asked: argparse.Namespace) -> None:
    """Make steps as standard input asks for them, and tell the seconds that they took."""
    import torch

    from benchmarks.peers import answer, questions

    if asked.make == NNUNET:
        step = nnunets(asked.folder)
    else:
        step = ours(asked.folder, getattr(torch, asked.make.removeprefix("ours, ")))
    for _ in range(WARM):
        step(True)
    if asked.trace and asked.make != NNUNET:
        trace(lambda: [step(True) for _ in range(5)])
    answer({"threads": torch.get_num_threads(), "torch": torch.__version__})
    for steps, new in questions():
        began = time.perf_counter()
        for _ in range(steps):
            step(new)
        answer(time.perf_counter() - began)


def nnunets(folder: Path) -> Step:
    """Its trainer's step."""
    import torch

    from benchmarks.gpu import nnunet

    trainer = nnunet.trainer(folder / "nnunet", torch.device("cpu"))
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    trainer.on_train_epoch_start()
    trainer.dataloader_val._finish()
    first = next(trainer.dataloader_train)
    print("nnU-Net's batch:", tuple(first["data"].shape), file=sys.stderr)
    return lambda new: trainer.train_step(next(trainer.dataloader_train) if new else first)


def ours(folder: Path, precision: Any) -> Step:
    """The step of our loop, the loss looked at as the loop does it."""
    import pandas as pd
    import torch

    from benchmarks.gpu import nnunet
    from pipeline.networks.base import ANY_SIZE
    from pipeline.networks.channels_last import prepare
    from pipeline.params import AugmentParams, TrainParams
    from pipeline.training import loop
    from pipeline.training.allocation import memory_kept
    from pipeline.training.data import PatchReader
    from pipeline.training.feed import feed
    from pipeline.training.profile import SMALL, reading_threads
    from pipeline.training.setting import Setting

    project, device = folder / "project" / "data", torch.device("cpu")
    table = pd.read_csv(project / "patches" / "hippocampus.csv", keep_default_na=False)
    network, patch, batch_size = nnunet.network(folder / "nnunet")
    assert patch == tuple(int(table[f"size_{axis}"].iloc[0]) for axis in "zyx"), patch
    network.form = ANY_SIZE
    policy = json.loads((project / "augmentation" / "hippocampus.json").read_text())["params"]
    setting = Setting(
        params=TrainParams(learning_rate=SMALL.learning_rate),
        augment=AugmentParams.model_validate(policy),
        steps=10**6,
        spacing=(1.0, 1.0, 1.0),
        normalisation=json.loads((project / "plans" / "hippocampus.json").read_text())["normalisation"],
        device=device,
        precision=precision,
        checkpoints=folder / "checkpoints",
    )
    classes, threads = ["anterior", "posterior"], reading_threads(device)
    reader = PatchReader(table, project / "volumes" / "hippocampus", batch_size, 0, classes, threads=threads)
    prepare(network)
    # For as long as the process lives.
    memory_kept(device).__enter__()
    optimizer = loop._optimizer(network, setting)
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    learn = loop._learner(network, optimizer, average, setting, batch_size)
    batches = feed(reader, setting, 0)
    _, first = next(batches)

    def step(new: bool) -> None:
        number, batch = next(batches) if new else (0, first)
        learn(batch, number, SMALL.learning_rate).tolist()

    return step


def trace(work: Callable[[], object]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=60))


if __name__ == "__main__":
    main()
