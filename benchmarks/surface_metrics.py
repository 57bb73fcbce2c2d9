"""Distances between surfaces: Hounsfield against MONAI, on real label maps.

    python -m benchmarks.surface_metrics [--data ../shared/data/head_and_neck] [--cases 20]

What is compared with each label map is the same map, bent by a smooth random displacement of some voxels:
as near as a good prediction. Both get the masks of every label in memory and give HD95, ASSD and NSD
(tolerance 1 mm) of each; MONAI by its three functions, one call for all labels, as its users do. Printed:
seconds of either, the best of `REPEATS`, their ratio, and the largest difference between any two figures.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from pipeline.metrics.surface import surface
from pipeline.volumes.readers import read_scan

Result = TypeVar("Result")
REPEATS = 3
BEND, SMOOTH = 2.0, 12.0
"""Standard deviation of the displacement and the width it is smoothed with, in voxels."""
TOLERANCE_MM = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/head_and_neck"))
    parser.add_argument("--cases", type=int, default=20)
    given = parser.parse_args()
    # Inside MONAI, one of its functions calls another in a way that it has deprecated.
    warnings.simplefilter("ignore", FutureWarning)
    took, apart, labels = np.zeros(2), 0.0, 0
    for number, path in enumerate(sorted((given.data / "labels").glob("*.nii.gz"))[: given.cases]):
        scan = read_scan(path)
        truth = scan.array.astype(np.uint8)
        predicted = bent(truth, np.random.default_rng(number))
        present = [value for value in np.unique(truth) if value]
        masks = [(truth == value, predicted == value) for value in present]
        spacing = scan.geometry.stored_spacing
        true, found = (torch.from_numpy(np.stack(side)[None]) for side in zip(*masks, strict=True))
        (ours, own), (monai, theirs) = (
            best(lambda: [surface(*pair, spacing, TOLERANCE_MM) for pair in masks]),  # noqa: B023
            best(lambda: of_monai(true, found, spacing)),  # noqa: B023
        )
        figures = np.array([[one.hd95, one.assd, one.nsd] for one in own])
        apart = max(apart, float(np.abs(figures - theirs).max()))
        took += ours, monai
        labels += len(present)
        print(f"{number + 1}: ours {ours:.3f} s, MONAI {monai:.3f} s", flush=True)
    result = {
        "label_maps": number + 1,
        "labels": labels,
        "ours_s": round(float(took[0]), 2),
        "monai_s": round(float(took[1]), 2),
        "ratio": round(float(took[1] / took[0]), 1),
        "largest_difference": apart,
    }
    print(json.dumps(result))


def bent(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The label map, displaced smoothly."""
    places = np.indices(labels.shape, dtype=np.float32)
    for axis in places:
        noise = ndimage.gaussian_filter(generator.normal(size=labels.shape).astype(np.float32), SMOOTH)
        axis += BEND * noise / noise.std()
    return np.asarray(ndimage.map_coordinates(labels, places, order=0))


def of_monai(truth: torch.Tensor, predicted: torch.Tensor, spacing: tuple[float, ...]) -> np.ndarray:
    """HD95, ASSD and NSD of each label, rows; of masks (1, label, I, J, K)."""
    options = {"include_background": True, "spacing": spacing}
    figures = (
        compute_hausdorff_distance(predicted, truth, percentile=95, **options),
        compute_average_surface_distance(predicted, truth, symmetric=True, **options),
        compute_surface_dice(predicted, truth, class_thresholds=[TOLERANCE_MM] * truth.shape[1], **options),
    )
    return torch.stack([one[0].double() for one in figures], dim=1).numpy()


def best(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of the fastest of `REPEATS`, and the result."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - began)
    return min(seconds), result


if __name__ == "__main__":
    main()
