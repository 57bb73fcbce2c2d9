"""Every network of the catalogue as safetensors, torch.export and ONNX: how far apart their answers are.

    python -m benchmarks.exports [NETWORK ...]

Each has the weights it is drawn with and its size in the profile `small`, and is exported as `register`
does it, for patches of 32 × 48 × 48 voxels. Prints a table as Markdown.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.errors import DataError
from pipeline.export.artefacts import ONNX, PROGRAM, SAFETENSORS, write_artefacts
from pipeline.inference.model import build
from pipeline.networks import names, plan_network
from pipeline.networks.table import PATCH
from pipeline.networks.weights import stored


def main() -> None:
    print("| network | seconds | apart: torch.export | apart: ONNX |\n|---|---|---|---|")
    for name in sys.argv[1:] or names():
        config = {
            "network": {"name": name} | plan_network(name, {}, PATCH, (1.0, 1.0, 1.0), small=True),
            "normalisation": [{}],
            "labels": {"one": 1, "two": 2},
            "patch_size": PATCH,
        }
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as scratch:
            weights = {key: weight.contiguous() for key, weight in stored(build(config)).items()}
            save_file(weights, Path(scratch) / SAFETENSORS)
            begin = time.perf_counter()
            try:
                found = write_artefacts(config, Path(scratch))
                told = " | ".join(f"{found[file]['largest_difference']:.1g}" for file in (PROGRAM, ONNX))
            except DataError as error:
                told = f"{error.reason} |"
        print(f"| `{name}` | {time.perf_counter() - begin:.0f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
