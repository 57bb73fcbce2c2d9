"""Host memory that a prediction of 512 x 512 x 1,000 voxels takes, by how fine the network looks.

    python -m benchmarks.predict_memory 1
    python -m benchmarks.predict_memory 6 --planes 400

Five classes, a small network with random weights, a scan of noise: the label map is full of small pieces,
which is the most work there can be for what tidies label maps up. Memory is that of the process, with all
that it imports.
"""

import argparse
import resource
import time
from dataclasses import asdict

import numpy as np
import torch

from pipeline.inference.model import Model, build
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import Scan
from pipeline.volumes.recipe import Recipe

LABELS = {f"label_{number}": number for number in range(1, 5)}
TIDIED = {"largest": True, "minimum_ml": 0.0, "fill_holes": True}
SPACING = (0.8, 0.8, 1.0)


def model(step: float) -> Model:
    """A network with random weights that looks at an image with `step` millimetres."""
    spacing = (step, step, step)
    config = {
        "organ": "noise",
        "modality": "CT",
        "labels": LABELS,
        "spacing": list(spacing),
        "patch_size": [64, 128, 128],
        "recipe": asdict(Recipe("CT", LABELS, spacing)),
        "normalisation": [{"image": 0, "clip": [-1000.0, 1000.0], "mean": 0.0, "std": 100.0}],
        "network": {"name": "residual_unet", "channels": [4, 8]},
        "clean": {"label_1": TIDIED},
    }
    torch.manual_seed(0)
    return Model(config, build(config).eval())


def noise(planes: int) -> Scan:
    """A scan of noise as a CT has it in a file, 16 bits a voxel."""
    rng = np.random.default_rng(0)
    array = np.empty((512, 512, planes), np.int16)
    for plane in range(planes):
        array[:, :, plane] = rng.integers(-1000, 1000, (512, 512), dtype=np.int16)
    return Scan(array, Geometry(array.shape, np.diag([*SPACING, 1.0])))


def main() -> None:
    """Predict once and tell the peak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", type=float, help="millimetres")
    parser.add_argument("--planes", type=int, default=1000)
    asked = parser.parse_args()
    looking, scan = model(asked.step), noise(asked.planes)
    began = time.perf_counter()
    labels = looking.predict("noise", [scan])
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = " x ".join(map(str, labels.shape))
    print(f"{size} voxels at {asked.step:g} mm: {seconds:.0f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
