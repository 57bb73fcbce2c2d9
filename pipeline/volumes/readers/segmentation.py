"""DICOM segmentations (SEG) as voxels of the image they belong to."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.annotation import one_of_that_name, read_annotation
from pipeline.volumes.readers.dicom_files import reading
from pipeline.volumes.readers.dicom_pixels import check_syntax
from pipeline.volumes.readers.frames import Frames, read_frames
from pipeline.volumes.readers.polygons import Indices
from pipeline.volumes.readers.region import Region

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
THRESHOLD = 0.5
"""Of a fractional segmentation: from this share on, a voxel belongs to a segment."""


def names(path: Path) -> list[str]:
    """The names of a file's segments, the background left out.

    Raises:
        DataError: it is unreadable, or no SEG.
    """
    return Segments(path).names


def read_segment(path: Path, segment: str, geometry: Geometry) -> Region:
    """The voxels (I, J, K) of a segment.

    Raises:
        DataError: as `Segments.region`.
    """
    return Segments(path).region(segment, geometry)


class Segments:
    """The segments of one SEG: binary, fractional or a label map.

    Raises:
        DataError: it is unreadable, or no SEG.
    """

    empty: frozenset[str] = frozenset()
    """A segment without frames was looked for and not found."""

    def __init__(self, path: Path) -> None:
        self._dataset, self._file = read_annotation(path, "SEG")
        with reading(self._file):
            self._kind = str(self._dataset.get("SegmentationType") or "of no type")
            described = {
                int(item.SegmentNumber): str(item.get("SegmentLabel") or "").strip()
                for item in self._dataset.SegmentSequence
            }
            self._positions, self._segments = read_frames(self._file, self._dataset)
            self._size = (int(self._dataset.Rows), int(self._dataset.Columns))
            self._whole = int(self._dataset.get("MaximumFractionalValue") or 1)
        stray = set(self._segments.tolist()) - described.keys()
        if stray and self._kind != "LABELMAP":
            raise DataError(f"{self._file}: a frame is of no segment it describes", "export it again")
        # A label map may describe its background, as segment 0.
        self._numbers = [number for number in described if number > 0]
        self.names = [described[number] for number in self._numbers]
        if self._kind not in KINDS or not self.names:
            raise DataError(
                f"{self._file} is {self._kind} and describes {len(self.names)} segments",
                f"export it as {' or '.join(KINDS)}, with a segment an organ",
            )

    def region(self, name: str, geometry: Geometry) -> Region:
        """The voxels (I, J, K) of a segment; a slice without a frame holds none of it.

        Raises:
            DataError: its frames do not lie on the voxels of the image, or are damaged.
        """
        number = self._numbers[one_of_that_name(self._file, name, self.names)]
        array = np.zeros(geometry.shape, np.bool_, order="F")
        frames = np.flatnonzero((self._segments == number) | (self._kind == "LABELMAP"))
        if frames.size:
            placement = self._frames(frames).placed(geometry)
            turned = array.transpose(placement.axes)[:, :: placement.steps[0], :: placement.steps[1]]
            for at, pixels in zip(placement.slices, self._pixels(frames), strict=True):
                turned[at] = self._belongs(pixels, number)
        notes = [f"a fraction, taken from {THRESHOLD} on"] if self._kind == "FRACTIONAL" else []
        if not array.any():
            notes.append("holds no voxel")
        return Region(array, tuple(f"'{name[:40]}': {note}" for note in notes))

    def _belongs(self, pixels: NDArray[Any], number: int) -> NDArray[np.bool_]:
        """Which pixels of a frame belong to a segment."""
        if self._kind == "LABELMAP":
            return np.asarray(pixels == number)
        return np.asarray(pixels >= (THRESHOLD * self._whole if self._kind == "FRACTIONAL" else 1))

    def _frames(self, frames: Indices) -> Frames:
        """Where some frames lie. Spacing names that of rows first, directions that along a row."""
        corner, along, down, rows, columns, apart = np.split(
            self._positions[frames], (3, 6, 9, 10, 11), axis=1
        )
        return Frames(self._file, self._size, corner, down * rows, along * columns, float(apart.max()))

    def _pixels(self, frames: Indices) -> list[NDArray[Any]]:
        """Frames (rows, columns), decoded."""
        return self._label_map if self._kind == "LABELMAP" else self._decoded(frames)

    @cached_property
    def _label_map(self) -> list[NDArray[Any]]:
        """All frames: in a label map, every segment may be on any of them."""
        return self._decoded(np.arange(len(self._segments)))

    def _decoded(self, frames: Indices) -> list[NDArray[Any]]:
        with reading(self._file):
            indices = [int(frame) for frame in frames]
            syntax = self._dataset.file_meta.TransferSyntaxUID
            check_syntax(self._file, syntax)
            if self._dataset.BitsAllocated == 1 and not syntax.is_encapsulated:
                return [self._unpacked(frame) for frame in indices]
            pixels = list(pydicom.pixels.iter_pixels(self._dataset, indices=indices))
        if any(frame.shape != self._size for frame in pixels):
            raise DataError(f"{self._file}: its frames are not grey", "export it as BINARY")
        return pixels

    def _unpacked(self, frame: int) -> NDArray[np.uint8]:
        """A frame of single bits, which need not begin with a byte; pydicom 3 reads only those that do."""
        count = self._size[0] * self._size[1]
        first = frame * count
        end = -(-(first + count) // 8)
        packed = np.frombuffer(self._dataset.PixelData, np.uint8)[first // 8 : end]
        bits = np.unpackbits(packed, bitorder="little")
        return bits[first % 8 :][:count].reshape(self._size)
