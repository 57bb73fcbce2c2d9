"""Voxels a second of a network over whole volumes on a GPU: ours against nnU-Net's predictor.

    python -m benchmarks.gpu.inference FOLDER

Both get nnU-Net's hippocampus network with the same weights, which are random, and a volume far larger
than its window; both step by half a window, weigh by a Gaussian and do not mirror. Volume in,
probabilities (ours, bfloat16) or logits (theirs, float16) out, all on the device. FOLDER holds `nnunet`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import nnunet
from pipeline.inference.sliding_window import probabilities
from pipeline.networks.base import Form

SHAPE = (160, 224, 160)
TIMED = 3
DEVICE = torch.device("cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder / "nnunet"
    network, window, _ = nnunet.network(folder)
    network = network.to(DEVICE).eval()
    network.form = Form(3, window)
    # Smooth, so that labels form regions as they do in a scan.
    coarse = torch.randn(1, 1, *(edge // 8 for edge in SHAPE), device=DEVICE)
    image = torch.nn.functional.interpolate(coarse, SHAPE, mode="trilinear")[0]
    predictor = nnunet.predictor(folder, network, DEVICE)
    theirs, seconds_theirs = timed(lambda: predictor.predict_sliding_window_return_logits(image))
    print(json.dumps({"nnunet": round(image.numel() / seconds_theirs / 1e6, 1)}), flush=True)
    ours, seconds_ours = timed(lambda: probabilities(network, image, window, 3, torch.bfloat16))
    print(
        json.dumps(
            {
                "card": torch.cuda.get_device_name(),
                "million voxels a second": {
                    "ours": round(image.numel() / seconds_ours / 1e6, 1),
                    "nnunet": round(image.numel() / seconds_theirs / 1e6, 1),
                },
                "ratio": round(seconds_theirs / seconds_ours, 2),
                "same labels": round(float((ours.argmax(0) == theirs.argmax(0)).float().mean()), 4),
            }
        )
    )


def timed(work: Any) -> tuple[torch.Tensor, float]:
    """What the work returns, and its seconds; the first run, which chooses algorithms, does not count."""
    found = work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TIMED):
        found = work()
    torch.cuda.synchronize()
    return found, (time.perf_counter() - began) / TIMED


if __name__ == "__main__":
    main()
