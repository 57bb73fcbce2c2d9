"""Ingest against nnU-Net's fingerprint and preprocessing: same CT cases, target spacing, processes.

    python -m benchmarks.ingest [--cases 10] [--processes 2]

Both read the same compressed NIfTI files and write volumes at the same spacing to the same disk, in
turn, each in processes of its own. Cases are phantoms of the abdomen at the size of clinical CTs (512
x 512 voxels in plane). Timed is what happens after the imports: reading, fingerprint, resampling,
writing. nnU-Net normalises as it
writes, we when a batch is drawn; its planning is not timed.

The error is that of the written HU against a cubic spline computed in float64 by scipy, over a
smaller set which nnU-Net writes once more without normalisation. Printed for both: seconds, voxels of
the originals a second and core, the memory of all processes at its peak, the error; then the ratios.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
from scipy import ndimage

from benchmarks.peers import peer_python

TARGET = (2.0, 1.5, 1.5)
"""Millimetres, (z, y, x)."""
LABELS = {"liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4}
PEER = """
import json, os, sys, time
from pathlib import Path
root, processes, spacing, normalise = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
for name in ("raw", "preprocessed", "results"):
    os.environ[f"nnUNet_{name}"] = str(root / name)
    (root / name).mkdir(exist_ok=True)
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset, plan_experiment_dataset, preprocess_dataset)
if __name__ == "__main__":
    start = time.perf_counter()
    extract_fingerprint_dataset(
        1, num_processes=processes, check_dataset_integrity=False, clean=True, verbose=False)
    seconds = time.perf_counter() - start
    plan_experiment_dataset(1, overwrite_target_spacing=tuple(spacing))
    plans = root / "preprocessed/Dataset001_CT/nnUNetPlans.json"
    content = json.loads(plans.read_text())
    if not normalise:
        for configuration in content["configurations"].values():
            if "normalization_schemes" in configuration:
                configuration["normalization_schemes"] = ["NoNormalization"]
        plans.write_text(json.dumps(content))
    start = time.perf_counter()
    preprocess_dataset(1, "nnUNetPlans", ("3d_fullres",), (processes,), False)
    print(json.dumps({"seconds": seconds + time.perf_counter() - start,
                      "transpose": content["transpose_forward"]}))
"""
OURS = """
import json, sys, time
from pathlib import Path
from pipeline.params import IngestParams
from pipeline.stages import ingest
if __name__ == "__main__":
    root, processes, spacing, labels = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])
    params = IngestParams(modality="CT", labels=labels, spacing=spacing, workers=processes)
    files = {"raw": root / "raw/Dataset001_CT", "volumes": root / "volumes"}
    start = time.perf_counter()
    ingest.run("abdomen", params, **files, cases=root / "cases.parquet", plans=root / "plan.json")
    print(json.dumps({"seconds": time.perf_counter() - start}))
"""
READ_PEER = """
import sys, numpy, blosc2
array = blosc2.open(sys.argv[1], mode="r")[:]
numpy.save(sys.argv[2], array[0].astype(numpy.float32))
"""


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    processes = arguments.processes
    python = peer_python("nnunet", "torch==2.13.0", "nnunetv2==2.8.1")
    with tempfile.TemporaryDirectory() as temporary:
        timed, small = Path(temporary) / "timed", Path(temporary) / "small"
        voxels = _write_cases(timed, arguments.cases)
        _write_cases(small, 2, shrink=2)
        print(f"{arguments.cases} CTs, {voxels / 1e6:.0f} M voxels, to {TARGET} mm, {processes} processes")
        theirs = _measured(python, PEER, timed, processes, TARGET, True)
        ours = _measured(sys.executable, OURS, timed, processes, TARGET, LABELS)
        _measured(python, PEER, small, 1, TARGET, False)
        _measured(sys.executable, OURS, small, 1, TARGET, LABELS)
        theirs["error"], ours["error"] = _errors(python, small)
    for name, one in (("nnU-Net", theirs), ("Hounsfield", ours)):
        rate = voxels / one["seconds"] / processes / 1e6
        print(f"{name:10}  {one['seconds']:6.1f} s  {rate:6.2f} M voxels/s/core", end="")
        print(f"  {one['peak'] / 2**20:6.0f} MiB  error {one['error']:.2g} HU (root mean square)")
    faster, smaller = theirs["seconds"] / ours["seconds"], theirs["peak"] / ours["peak"]
    print(f"nnU-Net / Hounsfield: {faster:.1f} x the time, {smaller:.1f} x the memory")


def _write_cases(root: Path, count: int, shrink: int = 1) -> int:
    """A data set in nnU-Net's layout; the number of voxels in it."""
    folder = root / "raw" / "Dataset001_CT"
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    voxels = 0
    for number in range(count):
        image, label, spacing = _case(number, shrink)
        affine = np.diag([*spacing[::-1], 1.0])
        for path, array in (
            (folder / "imagesTr" / f"case_{number:03}_0000.nii.gz", image),
            (folder / "labelsTr" / f"case_{number:03}.nii.gz", label),
        ):
            nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)
        voxels += image.size
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **LABELS}}
    description |= {"numTraining": count, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return voxels


def _case(number: int, shrink: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """A patient in whole HU (Z, Y, X), its organs, and its spacing in millimetres."""
    rng = np.random.default_rng(number)
    shape = (int(rng.integers(80, 121)) // shrink, 512 // shrink, 512 // shrink)
    spacing = (float(rng.choice([2.5, 3.0, 5.0])), *(float(rng.uniform(0.7, 0.95)) * shrink,) * 2)
    axes = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    image = np.full(shape, -1000, np.float32)
    image[(y / 0.75) ** 2 + (x / 0.9) ** 2 + 0 * z < 1] = -90
    image[(y / 0.68) ** 2 + (x / 0.83) ** 2 + 0 * z < 1] = 45
    label = np.zeros(shape, np.uint8)
    places = {
        1: (0, 0.1, 0.4, 0.5),
        2: (0.1, -0.2, -0.5, 0.2),
        3: (-0.2, -0.3, -0.3, 0.16),
        4: (-0.2, -0.3, 0.3, 0.16),
    }
    for value, (cz, cy, cx, radius) in places.items():
        dz, dy, dx = rng.normal(0, 0.03, 3)
        inside = (z - cz - dz) ** 2 + (y - cy - dy) ** 2 + (x - cx - dx) ** 2 < radius**2
        label[inside], image[inside] = value, 60 + 30 * value
    image += rng.normal(0, 15, shape).astype(np.float32)
    return np.round(image).astype(np.int16), label, spacing


def _measured(python: str | Path, source: str, root: Path, *arguments: object) -> dict[str, float]:
    """What a program says of itself, and the memory that it and its children held together."""
    # From a file: processes that are started anew import the program.
    program = root / "program.py"
    program.write_text(source)
    process = subprocess.Popen(
        [python, program, root, *map(json.dumps, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = [0]
    threading.Thread(target=_watch, args=(process, peak), daemon=True).start()
    said, complained = process.communicate()
    if process.returncode:
        sys.exit(complained)
    figures: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    return figures | {"peak": peak[0]}


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    """Every tenth of a second: what a process and its children hold alone (shared pages count once)."""
    while process.poll() is None:
        held = 0
        try:
            for one in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                held += one.memory_full_info().pss
        except psutil.Error:
            continue
        peak[0] = max(peak[0], held)
        time.sleep(0.1)


def _errors(python: Path, root: Path) -> tuple[float, float]:
    """Root mean square error of both, in HU, against the cubic spline in float64."""
    from pipeline.volumes.store import read_case

    squares: list[list[float]] = [[], []]
    for path in sorted((root / "raw/Dataset001_CT/imagesTr").iterdir()):
        case = path.name.removesuffix("_0000.nii.gz")
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj, np.float64).transpose(2, 1, 0)
        ours = read_case(root / "volumes" / f"{case}.b2nd").image[0]
        target = root / "peer.npy"
        stored = root / "preprocessed/Dataset001_CT/nnUNetPlans_3d_fullres" / f"{case}.b2nd"
        subprocess.run([python, "-c", READ_PEER, stored, target], check=True)
        reference = _reference(voxels, image.header.get_zooms()[::-1], ours.shape)
        for place, found in enumerate((np.load(target), ours)):
            squares[place].append(float(((found - reference) ** 2).mean()))
    return float(np.sqrt(np.mean(squares[0]))), float(np.sqrt(np.mean(squares[1])))


def _reference(voxels: np.ndarray, spacing: tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
    step = np.array(TARGET) / np.array(spacing, float)
    cubic = ndimage.affine_transform(
        voxels, step, offset=0.5 * step - 0.5, output_shape=shape, order=3, mode="nearest"
    )
    return np.asarray(np.clip(cubic, voxels.min(), voxels.max()))


if __name__ == "__main__":
    main()
