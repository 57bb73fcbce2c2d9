"""What it saves to compute windows of one value once: a model over scans, with and without it, in turn.

    python -m benchmarks.constant_windows MODEL SCANS [--count 12]

MODEL is a folder as `models/ORGAN`, SCANS one of NIfTI files; the first of them by name are labelled, each
twice, from the file to the label map. Printed: windows that were computed and seconds, of both, and how many
voxels got another label.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from pipeline.inference.constant_windows import OnceIfConstant
from pipeline.inference.model import load_model
from pipeline.volumes.readers import read_scan

WAYS: dict[str, Callable[..., Any]] = {"once": OnceIfConstant, "each": lambda look: look}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--count", type=int, default=12)
    asked = parser.parse_args()
    model = load_model(asked.model)
    windows = {"once": 0, "each": 0}
    seconds = {"once": 0.0, "each": 0.0}
    differing, way = 0, "once"

    def count(_network: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        windows[way] += len(given[0])

    model.network.register_forward_pre_hook(count)
    paths = sorted(asked.scans.glob("*.nii*"))[: asked.count]
    for path in paths:
        maps = []
        for way in ("once", "each"):
            with mock.patch("pipeline.inference.model.OnceIfConstant", WAYS[way]):
                began = time.perf_counter()
                maps.append(model.predict(path.name, [read_scan(path)]))
                seconds[way] += time.perf_counter() - began
        differing += int(np.count_nonzero(maps[0] != maps[1]))
    found = {
        "scans": len(paths),
        "windows": windows,
        "seconds": {way: round(s, 1) for way, s in seconds.items()},
    }
    print(json.dumps(found | {"ratio": round(seconds["each"] / seconds["once"], 2), "differing": differing}))


if __name__ == "__main__":
    main()
