"""Steps and looks on this CPU, channels last against PyTorch's own layout: the networks of the catalogue.

    python -m benchmarks.channels_last [NETWORK ...] [--rounds 5]

Each network as the profile `small` plans it, two patches of 40 x 56 x 40 voxels, a step in the precision that
training takes by itself and a look in that of prediction, in turn; ratios are those of the medians. Memory
that is freed stays with the process in both. Printed, a line of JSON each, with the largest difference
between the gradients of the two, as a share of the largest gradient.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.networks import build_network, names, plan_network
from pipeline.networks.channels_last import prepare
from pipeline.training.allocation import memory_kept
from pipeline.training.profile import precision

PATCH, SPACING, BATCH, CLASSES = (40, 56, 40), (1.0, 1.0, 1.0), 2, 3
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with memory_kept(CPU):
        for name in asked.network or names():
            print(json.dumps({"network": name} | compared(name, asked.rounds)), flush=True)


def compared(name: str, rounds: int) -> dict[str, float]:
    """Milliseconds of both, and how many times faster the network is with its channels last."""
    options = plan_network(name, {}, PATCH, SPACING, small=True)
    torch.manual_seed(0)
    plain = build_network(name, 1, CLASSES, options)
    fast = copy.deepcopy(plain)
    prepare(fast)
    predicting = precision(None, CPU)
    learning = predicting if plain.bfloat16_on_cpu else torch.float32
    image = torch.randn(BATCH, 1, *plain.form.input_size(plain.form.fit(PATCH)))

    def step(network: nn.Module) -> None:
        network.train().zero_grad()
        # Both draw the same, where a network draws.
        torch.manual_seed(1)
        with torch.autocast("cpu", learning, learning != torch.float32):
            found = network(image)
        outputs = (found,) if isinstance(found, Tensor) else found
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def look(network: nn.Module) -> None:
        with torch.autocast("cpu", predicting, predicting != torch.float32):
            network.eval()(image)

    step(plain)
    step(fast)
    gradients = ([one.grad for one in net.parameters() if one.grad is not None] for net in (plain, fast))
    pairs = list(zip(*gradients, strict=True))
    largest = max(float(gradient.norm()) for gradient, _ in pairs)
    found: dict[str, float] = {}
    for what, work in (("step", step), ("look", look)):
        seconds: dict[str, list[float]] = {"plain": [], "fast": []}
        for _ in range(rounds):
            seconds["plain"].append(timed(work, plain))
            seconds["fast"].append(timed(work, fast))
        medians = {key: statistics.median(times) for key, times in seconds.items()}
        found[f"{what}_ms"] = round(1000 * medians["plain"])
        found[f"{what}_ms_channels_last"] = round(1000 * medians["fast"])
        found[f"{what}_ratio"] = round(medians["plain"] / medians["fast"], 2)
    error = max(float((gradient - other).norm()) for gradient, other in pairs)
    return found | {"gradient_error": float(f"{error / largest:.1e}")}


def timed(work: Callable[[nn.Module], None], network: nn.Module) -> float:
    """Seconds."""
    began = time.perf_counter()
    work(network)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
