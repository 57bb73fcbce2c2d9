"""The volume store: one chunked, compressed file a case, from which patches are read.

A file is a Blosc2 array (C + 1, Z, Y, X) of float32: the image's channels, and the label map behind
them (class indices, exact in float32), so that one read brings both and DVC sees one file a case. Chunks are
small enough that a patch touches little beyond itself. Blosc2 won over Zarr, and LZ4 over Zstandard
(patches in half the time for a sixth more bytes), by `benchmarks/volume_store.py`. Nothing in a file
is pickled.
"""

import errno
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import atomic_path
from pipeline.errors import DataError, MissingError
from pipeline.volumes.geometry import Floats

SUFFIX = ".b2nd"
CHUNK = (64, 128, 128)
BLOCK = (16, 32, 32)


@dataclass(frozen=True)
class Case:
    """A case read whole."""

    image: Floats
    """(C, Z, Y, X), HU or z-scores."""
    label: NDArray[np.uint8]
    """(Z, Y, X), class indices; 0 is the background."""
    meta: dict[str, Any]


class StoredCase:
    """A case on disk, of which boxes can be read; opening reads the header alone.

    Raises:
        DataError: the file is missing or no volume.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._array = blosc2.open(str(path), mode="r")
            self.channels: int = self._array.shape[0] - 1
            self.shape: tuple[int, int, int] = tuple(self._array.shape[1:])
        except Exception as error:
            raise self._unreadable(error) from None

    @property
    def meta(self) -> dict[str, Any]:
        """What ingest wrote about the case."""
        meta: dict[str, Any] = json.loads(self._array.schunk.vlmeta["hounsfield"])
        return meta

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        """Image and label (C + 1, z, y, x) of the voxels from `start` to before `stop`, (z, y, x)."""
        return self._read((slice(None), *map(slice, start, stop)))

    def label(self) -> NDArray[np.uint8]:
        """The whole label map (Z, Y, X)."""
        return self._read(self.channels).astype(np.uint8)

    def image(self) -> Floats:
        """The whole image (C, Z, Y, X)."""
        return self._read((slice(0, self.channels),))

    def _read(self, index: int | tuple[slice, ...]) -> Floats:
        try:
            array: Floats = self._array[index]
        except (RuntimeError, MemoryError) as error:
            raise self._unreadable(error) from None
        return array

    def _unreadable(self, error: BaseException) -> DataError:
        return DataError(
            f"{self._path} is no readable volume ({type(error).__name__})",
            f"run dvc repro ingest@{self._path.parent.name}",
        )


def read_case(path: Path) -> Case:
    """Read image, label map and metadata of a case.

    Raises:
        DataError: the file is missing or no volume.
    """
    stored = StoredCase(path)
    return Case(stored.image(), stored.label(), stored.meta)


def write_case(path: Path, image: Floats, label: NDArray[np.uint8], meta: dict[str, Any]) -> None:
    """Write a case, whole or not at all; the same case gives the same bytes.

    Args:
        path: ends with `SUFFIX`.
        image: (C, Z, Y, X), or (Z, Y, X) of one channel.
        label: (Z, Y, X), class indices.
        meta: JSON-like.

    Raises:
        DataError: the file system takes no file of this name.
        MissingError: there is no room on the disk, or no permission.
    """
    channels = image if image.ndim == 4 else image[None]
    both = np.concatenate([channels, label[None]], dtype=np.float32)
    chunk = tuple(min(edge, limit) for edge, limit in zip(label.shape, CHUNK, strict=True))
    block = tuple(min(edge, limit) for edge, limit in zip(chunk, BLOCK, strict=True))
    try:
        with atomic_path(path) as temporary:
            array = blosc2.asarray(
                both,
                urlpath=str(temporary),
                mode="w",
                chunks=(1, *chunk),
                blocks=(1, *block),
                cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1},
            )
            array.schunk.vlmeta["hounsfield"] = json.dumps(meta, sort_keys=True)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise DataError("its name is too long for a file of it", "give its files shorter names") from None
        raise MissingError(
            f"{path} cannot be written ({type(error).__name__})",
            "make room on the disk, see that the folder may be written to, and run again",
        ) from None
