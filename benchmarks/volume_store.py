"""Blosc2 against Zarr as the volume store: write once, read random patches.

    python -m benchmarks.volume_store [--cases 8] [--patches 400]

Both hold the same CT-like volumes (image and label, float32) with the same chunks and zstd, one
file a case. Printed: megabytes on disk, seconds to write a case, milliseconds a patch, single
thread, and their ratio in one run.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import zarr
from scipy import ndimage

from pipeline.volumes.store import CHUNK, StoredCase, write_case

Reader = Callable[[tuple[int, ...], tuple[int, ...]], Any]
"""Of the voxels between two corners."""
SHAPE = (120, 256, 256)
PATCH = (32, 96, 96)


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth body with noise, in whole HU, and three organs."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.zoom(rng.normal(size=(10, 16, 16)), (12, 16, 16), order=1)
    image = np.round(smooth * 200 + rng.normal(0, 15, SHAPE)).astype(np.float32)
    label = np.digitize(smooth, [0.8, 1.4, 2.0]).astype(np.uint8)
    return image, label


def write_zarr(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    store = zarr.storage.ZipStore(path, mode="w")
    array = zarr.create_array(
        store,
        shape=(2, *SHAPE),
        chunks=(1, *CHUNK),
        dtype="float32",
        compressors=zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
    )
    array[:] = np.stack([image, label.astype(np.float32)])
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--patches", type=int, default=400)
    arguments = parser.parse_args()
    blosc2.set_nthreads(1)
    rng = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"blosc2": [0, 0], "zarr": [0, 0]}
    size = {"blosc2": 0, "zarr": 0}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for index in range(arguments.cases):
            image, label = volume(index)
            for name, write in (
                ("blosc2", lambda p, i, lab: write_case(p, i, lab, {})),
                ("zarr", write_zarr),
            ):
                path = folder / f"{index}.{'b2nd' if name == 'blosc2' else 'zip'}"
                start = time.perf_counter()
                write(path, image, label)
                seconds[name][0] += time.perf_counter() - start
                size[name] += path.stat().st_size
        readers: dict[str, list[Reader]] = {
            "blosc2": [StoredCase(folder / f"{i}.b2nd").box for i in range(arguments.cases)],
            "zarr": [_zarr_reader(folder / f"{i}.zip") for i in range(arguments.cases)],
        }
        for _ in range(arguments.patches):
            case = int(rng.integers(arguments.cases))
            start_at = tuple(int(rng.integers(n - p + 1)) for n, p in zip(SHAPE, PATCH, strict=True))
            stop_at = tuple(s + p for s, p in zip(start_at, PATCH, strict=True))
            for name in readers:
                start = time.perf_counter()
                readers[name][case](start_at, stop_at)
                seconds[name][1] += time.perf_counter() - start
    for name in readers:
        write_s, read_s = seconds[name][0] / arguments.cases, seconds[name][1] / arguments.patches
        print(f"{name:7} {size[name] / 1e6:8.1f} MB", end="")
        print(f"  write {write_s:6.3f} s/case  read {read_s * 1e3:6.2f} ms/patch")
    print(f"zarr / blosc2: read {seconds['zarr'][1] / seconds['blosc2'][1]:.2f} x the time")


def _zarr_reader(path: Path) -> Reader:
    array = zarr.open_array(zarr.storage.ZipStore(path, mode="r"), mode="r")
    return lambda start, stop: array[(slice(None), *map(slice, start, stop))]


if __name__ == "__main__":
    main()
