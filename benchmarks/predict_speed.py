"""Voxels a second of a network over a whole volume on this CPU: ours against nnU-Net's predictor.

    python -m benchmarks.predict_speed SOURCE

SOURCE is the Medical Segmentation Decathlon's hippocampus task (imagesTr, labelsTr, dataset.json), which
nnU-Net plans for. Both get the network of that plan with the same weights, which are random, and a volume far
larger than its window; both step by half a window, weigh by a Gaussian and do not mirror. Volume in,
probabilities (ours) or logits (theirs) out. Each is timed in turn, so that whatever else runs slows both; the
ratio is that of the medians. nnU-Net computes in float32 on a CPU; ours in float32 as well, and in bfloat16,
which is its choice where the processor has it. nnU-Net lives in an environment of its own, in which our
window slides, too.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SHAPE = (64, 96, 64)
ROUNDS = 3
PEER = ("torch==2.13.0", "nnunetv2==2.8.1")
CLASSES = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--compare", action="store_true", help="what the peer's interpreter is called with")
    asked = parser.parse_args()
    if asked.compare:
        compare(asked.source)
        return
    from benchmarks.gpu.prepare import preprocess, split
    from benchmarks.peers import peer_python

    peer = peer_python("nnunet", *PEER)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        given, _ = split(asked.source, folder)
        cases = sorted(path.name.removesuffix(".nii.gz") for path in (given / "imagesTr").glob("*.nii.gz"))
        preprocess(given, cases, peer, folder / "out")
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        command: list[str | Path] = [peer, __file__, folder / "out" / "nnunet", "--compare"]
        subprocess.run(command, env=environment, check=True)


def compare(folder: Path) -> None:
    """Time both; `folder` holds nnU-Net's plan."""
    from benchmarks.gpu import nnunet
    from pipeline.inference.sliding_window import joined, slabs, softmax
    from pipeline.networks.base import Form
    from pipeline.networks.channels_last import prepare

    torch.manual_seed(0)
    network, window, _ = nnunet.network(folder)
    network.eval()
    # Smooth, so that labels form regions as they do in a scan.
    coarse = torch.randn(1, 1, *(edge // 8 for edge in SHAPE))
    image = torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0]
    predictor = nnunet.predictor(folder, network, torch.device("cpu"))
    fast = copy.deepcopy(network)
    prepare(fast)

    def ours(precision: torch.dtype) -> torch.Tensor:
        def look(windows: torch.Tensor) -> torch.Tensor:
            return softmax(fast(windows))

        found = slabs(look, Form(3, window), image, window, CLASSES, precision)
        return joined(found, CLASSES, image)

    works: dict[str, Callable[[], Any]] = {
        "nnunet, float32": lambda: predictor.predict_sliding_window_return_logits(image),
        "ours, float32": lambda: ours(torch.float32),
        "ours, bfloat16": lambda: ours(torch.bfloat16),
    }
    labels = {name: work().argmax(0) for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
        for name, work in works.items():
            seconds[name].append(timed(work))
    theirs = "nnunet, float32"
    medians = {name: statistics.median(of_rounds) for name, of_rounds in seconds.items()}
    for name, median in medians.items():
        found = {
            "of": name,
            "million voxels a second": round(image.numel() / median / 1e6, 3),
            "ratio": round(medians[theirs] / median, 2),
            "same labels": round(float((labels[name] == labels[theirs]).float().mean()), 4),
        }
        print(json.dumps(found))
    print(json.dumps({"window": window, "shape": SHAPE, "threads": torch.get_num_threads()}))


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
