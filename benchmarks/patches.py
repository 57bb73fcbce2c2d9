"""Patches a second and core: our loader against MONAI's CacheDataset and TorchIO's Queue, on this CPU.

    python -m benchmarks.patches [--cases 12] [--rounds 5] [--elastic 0.2] [--only speed memory]

All give the same volumes (made here: CTs with seven organs) as batches of two patches of 64 x 64 x 64 voxels,
normalised and augmented, image and label map; nobody trains on them. Each library lives in an environment and
a process of its own; the processes stay alive and work in turn, so that whatever else runs slows all of them,
and are stopped out of turn together with their workers, so that none fills its queue at the others' cost.
PyTorch computes with one thread in each; MONAI and TorchIO have 0, 1 or 2 workers besides the main process,
ours the thread that reads. Printed, a line of JSON each: the medians over the rounds of patches a second, and
of patches a second of CPU time of all processes and threads; our ratios to the best of each library's
settings; then the memory of all processes of each at its peak (proportional set size) with few and many
larger cases.

The same: patch size, batch, and, as far as a library can express it, what is drawn and how often: rotation by
15 degrees, scale 0.85 to 1.18 and shift with 0.7, elastic displacement with 0.2, and noise, blur, brightness,
contrast and gamma with 0.3 each. What differs:

* Ours draws its places from a table that stage `patches` makes before, which is not timed. Volumes that take
  no more than `data.KEPT_BYTES` (1 GiB) are kept decompressed; `ours_stored` keeps none, as with larger data.
* MONAI keeps all volumes in memory, normalised, with the voxels of organ and background listed beforehand
  (FgBgToIndicesd), which is not timed, and takes both patches of a batch from one case. Metadata is not
  tracked. Its elastic displacement is smoothed noise (Rand3DElasticd), resampled apart from the affine one.
* TorchIO reads uncompressed NIfTI, takes ten patches of each volume that it reads, at places drawn evenly
  (UniformSampler, its fastest), and has no brightness or contrast. `torchio` transforms whole volumes before
  it takes patches, as its documentation has it; `torchio_patches` transforms the patches the queue gives.
"""

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

PATCH, BATCH = 64, 2
SPEED_SHAPE, MEMORY_SHAPE = (160, 160, 160), (288, 288, 288)
"""Six of the latter are more than `data.KEPT_BYTES`."""
MEMORY_CASES = (6, 24)
WARM, PER_ROUND = 30, 60
"""Patches. A round is no shorter than it takes TorchIO's queue to be filled and emptied."""
ORGANS = 7
REQUIREMENTS = {
    "monai": ("torch==2.13.0", "monai==1.6.1", "nibabel==5.4.2"),
    "torchio": ("torch==2.13.0", "torchio==1.2.1"),
}
WORKERS = {
    "ours": [0],
    "ours_stored": [0],
    "monai": [0, 1, 2],
    "torchio": [0, 1, 2],
    "torchio_patches": [0, 1, 2],
}
"""Of each loader, what is tried: processes besides the main one."""
CLIP, MEAN, STD = (-1000.0, 1000.0), 0.0, 250.0
Batches = Iterator[tuple[Any, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--elastic", type=float, default=0.2, help="probability of the elastic displacement")
    parser.add_argument("--only", nargs="+", default=["speed", "memory"], choices=["speed", "memory"])
    parser.add_argument("--of", nargs="+", default=list(WORKERS), choices=list(WORKERS))
    parser.add_argument("--give", nargs=3, metavar=("LOADER", "FOLDER", "WORKERS"), help="what a child does")
    asked = parser.parse_args()
    if asked.give:
        name, folder, workers = asked.give
        give(LOADERS[name](Path(folder), asked.cases, int(workers), asked.elastic))
        return
    best = {name: workers[0] for name, workers in WORKERS.items()}
    with tempfile.TemporaryDirectory() as scratch:
        if "speed" in asked.only:
            write_cases(Path(scratch) / "speed", asked.cases, SPEED_SHAPE)
            best |= speed(Path(scratch) / "speed", asked)
        if "memory" in asked.only:
            write_cases(Path(scratch) / "memory", max(MEMORY_CASES), MEMORY_SHAPE)
            memory(Path(scratch) / "memory", asked, best)


def speed(folder: Path, asked: argparse.Namespace) -> dict[str, int]:
    """Time all in turn; returns the workers with which each gave most patches a second of CPU time."""
    children = {
        (name, workers): Child(name, folder, asked.cases, workers, asked.elastic, watched=False)
        for name in asked.of
        for workers in WORKERS[name]
    }
    rounds: dict[Any, list[tuple[float, float]]] = {key: [] for key in children}
    for number in range(asked.rounds):
        for key, child in children.items():
            rounds[key].append(child.rates())
            print(f"round {number + 1} of {asked.rounds}:", *key, told(rounds[key][-1], 1), file=sys.stderr)
    for child in children.values():
        child.end()
    medians = {key: np.median(found, axis=0) for key, found in rounds.items()}
    for (name, workers), rates in medians.items():
        print(json.dumps({"of": name, "workers": workers} | told(rates, 1)), flush=True)
    highest = {
        name: np.max([medians[name, workers] for workers in WORKERS[name]], axis=0) for name in asked.of
    }
    for own in ("ours", "ours_stored"):
        for name in asked.of:
            if own in asked.of and not name.startswith("ours"):
                print(json.dumps({"of": own, "to": name} | told(highest[own] / highest[name], 2)), flush=True)
    return {name: max(WORKERS[name], key=lambda workers: medians[name, workers][1]) for name in asked.of}


def told(rates: ArrayLike, digits: int) -> dict[str, float]:
    """Rates by wall and by CPU time, by name."""
    by_wall, by_cpu = np.asarray(rates).tolist()
    return {"patches_per_s": round(by_wall, digits), "patches_per_cpu_s": round(by_cpu, digits)}


def memory(folder: Path, asked: argparse.Namespace, best: dict[str, int]) -> None:
    """Print the peak of each with few and with many cases."""
    for name in asked.of:
        peaks = {}
        for cases in MEMORY_CASES:
            child = Child(name, folder, cases, best[name], asked.elastic, watched=True)
            child.rates()
            peaks[f"mib_with_{cases}_cases"] = round(child.end() / 2**20)
        print(json.dumps({"of": name, "workers": best[name]} | peaks), flush=True)


class Child:
    """A process that gives patches when asked to; it is warm when this returns.

    Args:
        name: of the loader.
        folder: of the cases.
        cases: how many of them.
        workers: processes besides the main one.
        elastic: probability of the elastic displacement.
        watched: whether to tell its memory.
    """

    def __init__(
        self, name: str, folder: Path, cases: int, workers: int, elastic: float, watched: bool = False
    ) -> None:
        from benchmarks.peers import InTurn, peer_python

        peer = name.partition("_")[0]
        python = peer_python(peer, *REQUIREMENTS[peer]) if peer in REQUIREMENTS else Path(sys.executable)
        command: list[str | Path] = [python, __file__, "--give", name, folder, str(workers)]
        command += ["--cases", str(cases), "--elastic", str(elastic)]
        self._child = InTurn(command, name, {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
        self._peak, self._ended = 0, threading.Event()
        self._watch = threading.Thread(target=self._sample, daemon=True)
        # Asking takes time, which must not be taken where time is measured.
        if watched:
            self._watch.start()
        self._child.ready()
        self._child.ask(WARM)

    def rates(self) -> tuple[float, float]:
        """Patches a second, and a second of CPU time, of one round."""
        before = self._cpu_seconds()
        seconds = self._child.ask(PER_ROUND)
        return PER_ROUND / seconds, PER_ROUND / (self._cpu_seconds() - before)

    def end(self) -> int:
        """End the process; the peak of its memory so far, in bytes."""
        self._ended.set()
        if self._watch.is_alive():
            self._watch.join()
        self._child.end()
        return self._peak

    def _tree(self) -> list[Any]:
        import psutil

        root = psutil.Process(self._child.process.pid)
        return [root, *root.children(recursive=True)]

    def _cpu_seconds(self) -> float:
        """Of all its processes, those included that have ended."""
        return sum(sum(one.cpu_times()[:4]) for one in self._tree())

    def _sample(self) -> None:
        import psutil

        while not self._ended.wait(0.25):
            try:
                now = sum(one.memory_full_info().pss for one in self._tree())
            except psutil.Error:  # One has just ended.
                continue
            self._peak = max(self._peak, now)


def give(batches: Batches) -> None:
    """Take from `batches` as many patches as each question says, and answer with the seconds it took."""
    from benchmarks.peers import answer, questions

    answer("ready")
    for wanted in questions():
        began, given = time.perf_counter(), 0
        while given < wanted:
            image, label = next(batches)
            assert tuple(image.shape) == (BATCH, 1, PATCH, PATCH, PATCH), image.shape
            assert tuple(label.shape)[-3:] == (PATCH,) * 3, label.shape
            given += len(image)
        answer(time.perf_counter() - began)


def ours(folder: Path, cases: int, _workers: int, elastic: float) -> Batches:
    """Batches as a training on a CPU is fed."""
    import pandas as pd
    import torch

    from pipeline.params import AugmentParams, TrainParams
    from pipeline.training.data import PatchReader
    from pipeline.training.feed import feed
    from pipeline.training.profile import reading_threads
    from pipeline.training.setting import Setting

    table = pd.read_parquet(folder / "patches.parquet")
    device = torch.device("cpu")
    setting = Setting(
        params=TrainParams(),
        augment=AugmentParams(elastic_probability=elastic),
        steps=10**6,
        spacing=(1.0, 1.0, 1.0),
        normalisation=[{"image": 0, "clip": CLIP, "mean": MEAN, "std": STD}],
        device=device,
        precision=torch.float32,
        checkpoints=folder,
    )
    reader = PatchReader(
        table[table["case"] < f"case_{cases:03}"], folder, BATCH, 0, threads=reading_threads(device)
    )
    for _, batch in feed(reader, setting, 0):
        yield batch.image, batch.label


def ours_stored(*given: Any) -> Batches:
    """As `ours`, but of volumes that are read from the disk for every patch."""
    from pipeline.training import data

    data.KEPT_BYTES = 0
    return ours(*given)


def monai(folder: Path, cases: int, workers: int, elastic: float) -> Batches:
    """Batches of MONAI's usual transforms over a cache of all cases."""
    from monai import transforms as its
    from monai.data import CacheDataset, DataLoader, set_track_meta
    from torch.utils.data import RandomSampler

    set_track_meta(False)
    both, image = ["image", "label"], ["image"]
    angle = math.radians(15)
    resampled = {"keys": both, "mode": ("bilinear", "nearest"), "padding_mode": "border"}
    transform = its.Compose(
        [
            its.LoadImaged(both),
            its.EnsureChannelFirstd(both, channel_dim="no_channel"),
            its.CastToTyped("label", np.uint8),
            its.ScaleIntensityRanged(image, *CLIP, CLIP[0] / STD, CLIP[1] / STD, clip=True),
            its.FgBgToIndicesd("label"),
            its.RandCropByPosNegLabeld(
                both,
                "label",
                (PATCH,) * 3,
                num_samples=BATCH,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            its.SelectItemsd(both),
            its.RandAffined(
                prob=0.7,
                rotate_range=[angle] * 3,
                scale_range=[(-0.15, 0.18)] * 3,
                translate_range=[0.05 * PATCH] * 3,
                **resampled,
            ),
            *(
                [its.Rand3DElasticd(sigma_range=(5, 8), magnitude_range=(50, 150), prob=elastic, **resampled)]
                if elastic
                else []
            ),
            its.RandGaussianNoised(image, prob=0.3, std=0.1),
            its.RandGaussianSmoothd(image, *[(0.5, 1.0)] * 3, prob=0.3),
            its.RandShiftIntensityd(image, 0.2, prob=0.3),
            its.RandScaleIntensityFixedMeand(image, 0.25, prob=0.3),
            its.RandAdjustContrastd(image, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )
    files = [{key: folder / f"case_{number:03}_{key}.nii" for key in both} for number in range(cases)]
    data = CacheDataset(files, transform, num_workers=2, progress=False)
    loader = DataLoader(
        data,
        batch_size=1,
        sampler=RandomSampler(data, replacement=True, num_samples=10**6),
        num_workers=workers,
    )
    for batch in loader:
        yield batch["image"], batch["label"]


def torchio(folder: Path, cases: int, workers: int, elastic: float, of_patches: bool = False) -> Batches:
    """Batches of TorchIO's queue; transformed are the volumes it reads, or the patches it gives."""
    import torchio as tio

    intensity = {"include": ["image"], "p": 0.3}
    transform = tio.Compose(
        [
            tio.RandomAffine(scales=(0.85, 1.18), degrees=15, translation=0.05 * PATCH, p=0.7),
            *(
                [tio.RandomElasticDeformation(num_control_points=5, max_displacement=3, p=elastic)]
                if elastic
                else []
            ),
            tio.RandomNoise(std=(0, 0.1), **intensity),
            tio.RandomBlur(std=(0.5, 1.0), **intensity),
            tio.RandomGamma(log_gamma=(math.log(0.7), math.log(1.5)), **intensity),
        ]
    )
    normalised = tio.RescaleIntensity((CLIP[0] / STD, CLIP[1] / STD), in_min_max=CLIP)
    subjects = [
        tio.Subject(
            image=tio.ScalarImage(folder / f"case_{number:03}_image.nii"),
            label=tio.LabelMap(folder / f"case_{number:03}_label.nii"),
        )
        for number in range(cases)
    ]
    # Many times, so that an epoch, whose end empties the queue, does not end.
    data = tio.SubjectsDataset(
        subjects * 500, normalised if of_patches else tio.Compose([normalised, transform])
    )
    queue = tio.Queue(data, PER_ROUND, 10, tio.UniformSampler(PATCH), num_workers=workers)

    class Transformed:
        """The queue's patches, transformed."""

        def __len__(self) -> int:
            return len(queue)

        def __getitem__(self, number: int) -> Any:
            return transform(queue[number])

    for batch in tio.SubjectsLoader(Transformed() if of_patches else queue, batch_size=BATCH, num_workers=0):
        yield batch["image"][tio.DATA], batch["label"][tio.DATA]


LOADERS: dict[str, Callable[[Path, int, int, float], Batches]] = {
    "ours": ours,
    "ours_stored": ours_stored,
    "monai": monai,
    "torchio": torchio,
    "torchio_patches": partial(torchio, of_patches=True),
}


def write_cases(folder: Path, cases: int, shape: tuple[int, int, int]) -> None:
    """Write the volumes in our store's format and as NIfTI, and our table of patches."""
    import nibabel
    import pandas as pd

    from pipeline.params import PatchesParams
    from pipeline.sampling.centres import Case, draw_centres
    from pipeline.volumes.store import SUFFIX, write_case

    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(cases):
        name, generator = f"case_{number:03}", np.random.default_rng(number)
        image, label = volume(generator, shape)
        write_case(folder / f"{name}{SUFFIX}", image, label, {})
        for kind, array in (("image", image), ("label", label)):
            nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), folder / f"{name}_{kind}.nii")
        places = draw_centres(Case(label), (PATCH,) * 3, PatchesParams(), [], generator)
        rows += [{"case": name, "annotated": ""} | place for place in places]
    table = pd.DataFrame(rows).assign(weight=1.0, **{f"size_{axis}": PATCH for axis in "zyx"})
    table.to_parquet(folder / "patches.parquet")


def volume(generator: np.random.Generator, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth body with noise, in whole HU (Z, Y, X), and its organs, uint8."""
    from scipy import ndimage

    smooth = generator.normal(size=[edge // 16 for edge in shape]).astype(np.float32)
    smooth = ndimage.zoom(smooth, 16, order=1)
    image = np.round(smooth * 200 + generator.normal(0, 15, shape)).astype(np.float32)
    label = np.digitize(smooth, np.linspace(0.6, 1.8, ORGANS)).astype(np.uint8)
    return image, label


if __name__ == "__main__":
    main()
