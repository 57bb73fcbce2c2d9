"""What it saves that windows overlap only where overlapping changes something: with it, and all overlapping.

    python -m benchmarks.overlap [NETWORK …] [--volume 64 96 96] [--window 16 48 48]

Every network of the catalogue that is complete along an axis, small, with random weights, over a volume of
noise, in turn and `ROUNDS` times. Printed for each: windows and seconds of both ways, their ratio, and the
largest difference between any two probabilities. Along the other axes windows are blended by their weights,
which make up that difference where the network is complete along one axis alone.
"""

import argparse
import json
import statistics
import time
from unittest import mock

import torch

from pipeline.inference.sliding_window import probabilities, windows
from pipeline.networks import build_network, names, plan_network
from pipeline.networks.base import Form, Network

CLASSES, ROUNDS = 3, 3
SPACING = (1.0, 1.0, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("networks", nargs="*", help="all, if none is named")
    parser.add_argument("--volume", type=int, nargs=3, default=[64, 96, 96])
    parser.add_argument("--window", type=int, nargs=3, default=[16, 48, 48])
    asked = parser.parse_args()
    z, y, x = asked.window
    for name in asked.networks or names():
        torch.manual_seed(0)
        options = plan_network(name, {}, (z, y, x), SPACING, small=True)
        network = build_network(name, 1, CLASSES, options)
        if any(network.form.complete):
            print(json.dumps({"network": name} | compared(network, asked.volume, asked.window)), flush=True)


def compared(network: Network, volume: list[int], window: list[int]) -> dict[str, object]:
    """Windows, seconds and the largest difference."""
    with torch.no_grad():
        # Normalisation by what a batch was like, so that probabilities differ from voxel to voxel.
        network.train()(torch.randn(2, 1, *network.form.input_size(network.form.fit(window))))
    network.eval()
    image = torch.randn(1, *volume)
    everywhere = mock.patch.object(Form, "complete", (False, False, False))
    own: list[float] = []
    other: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        found = probabilities(network, image, window, CLASSES, torch.float32)
        own.append(time.perf_counter() - began)
        with everywhere:
            began = time.perf_counter()
            overlapping = probabilities(network, image, window, CLASSES, torch.float32)
            other.append(time.perf_counter() - began)
    few = windows(volume, window, network.form)
    with everywhere:
        many = windows(volume, window, network.form)
    return {
        "windows": [few, many],
        "seconds": [round(statistics.median(times), 2) for times in (own, other)],
        "ratio": round(statistics.median(other) / statistics.median(own), 2),
        "difference": float(f"{float((found - overlapping).abs().max()):.1g}"),
    }


if __name__ == "__main__":
    main()
