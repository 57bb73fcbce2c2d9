"""Where the frames of a DICOM segmentation lie in the voxels of an image."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NoReturn

import numpy as np
import pydicom

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.annotation import FARTHEST
from pipeline.volumes.readers.polygons import Indices, Numbers

APART = 0.5
"""Voxels that a pixel of a frame may lie beside the voxel it is taken to."""
SAME_SPACING = 0.1
"""By what share the spacings of frames and of slices may differ."""

MEASURES = "PixelMeasuresSequence"
GROUPS = {
    "PlanePositionSequence": "ImagePositionPatient",
    "PlaneOrientationSequence": "ImageOrientationPatient",
    MEASURES: "PixelSpacing",
}
SEGMENT = "SegmentIdentificationSequence"


@dataclass(frozen=True)
class Placement:
    """How frames lie in an array (I, J, K), whose axes may have another order and direction."""

    axes: tuple[int, int, int]
    """Of the array: across slices, down the rows of a frame, along its columns."""
    steps: tuple[int, int]
    """1, or -1 where rows or columns run the other way."""
    slices: Indices
    """Of each frame."""


@dataclass(frozen=True)
class Frames:
    """Frames of one size; lengths in millimetres, in DICOM's patient coordinates (LPS)."""

    file: str
    """Its name, for messages."""
    size: tuple[int, int]
    """Rows and columns."""
    corner: Numbers
    """(F, 3), the centre of the first pixel."""
    down: Numbers
    """(F, 3), the step from a row to the next."""
    along: Numbers
    """(F, 3), the step from a column to the next."""
    apart: float
    """Between frames, 0 if the file does not say it."""

    def placed(self, geometry: Geometry) -> Placement:
        """Find the slice of each frame, and how it lies in it.

        Raises:
            DataError: they lie between the voxels of the image or outside, have another size, or two
                of them lie on one slice.
        """
        linear = np.linalg.inv(geometry.affine)[:3, :3] * (-1.0, -1.0, 1.0)
        down, along = self.down @ linear.T, self.along @ linear.T
        corner = self.corner @ linear.T + np.linalg.inv(geometry.affine)[:3, 3]
        rows, columns = (int(np.abs(step[0]).argmax()) for step in (down, along))
        if rows == columns:
            self._refuse("lie oblique to the slices of the image")
        if (geometry.shape[rows], geometry.shape[columns]) != self.size:
            self._refuse(f"have {self.size} pixels and the image {geometry.shape} voxels")
        placement = Placement(
            axes=(3 - rows - columns, rows, columns),
            steps=(1 if down[0, rows] > 0 else -1, 1 if along[0, columns] > 0 else -1),
            slices=np.rint(corner[:, 3 - rows - columns]).astype(np.intp),
        )
        beside = max(
            float(np.abs(corner + row * down + column * along - wanted).max())
            for row, column, wanted in self._corners(placement)
        )
        if beside > APART:
            self._refuse(f"lie up to {beside:.1f} voxels beside those of the image")
        self._check_slices(placement.slices, placement.axes[0], geometry)
        return placement

    def _corners(self, placement: Placement) -> Iterator[tuple[int, int, Numbers]]:
        """The outermost pixels: row, column, and the voxel (F, 3) that each frame should have there."""
        for pixel in product(*((0, length - 1) for length in self.size)):
            wanted = np.empty((len(self.corner), 3))
            wanted[:, placement.axes[0]] = placement.slices
            for axis, at, length, step in zip(
                placement.axes[1:], pixel, self.size, placement.steps, strict=True
            ):
                wanted[:, axis] = at if step > 0 else length - 1 - at
            yield pixel[0], pixel[1], wanted

    def _check_slices(self, slices: Indices, axis: int, geometry: Geometry) -> None:
        spacing, count = float(np.linalg.norm(geometry.affine[:3, axis])), geometry.shape[axis]
        # Frames twice as far apart as slices would fall on voxels all the same, on every other slice.
        if self.apart and abs(self.apart / spacing - 1) > SAME_SPACING:
            self._refuse(f"are {self.apart:.2f} mm apart and the slices of the image {spacing:.2f} mm")
        outside = int(((slices < 0) | (slices >= count)).sum())
        if outside:
            self._refuse(f"lie outside the image ({outside} of {len(slices)})")
        frames_on = np.bincount(slices, minlength=count)
        if frames_on.max() > 1:
            self._refuse(f"lie {frames_on.max()} on one slice (number {frames_on.argmax()})")

    def _refuse(self, reason: str) -> NoReturn:
        raise DataError(
            f"{self.file}: its frames {reason}",
            "resample the segmentation onto the image, or give the image it was made on",
        )


def read_frames(file: str, dataset: pydicom.Dataset) -> tuple[Numbers, Indices]:
    """Where frames lie and what they show, from the functional groups of a SEG.

    Args:
        file: its name, for messages.
        dataset: the SEG.

    Returns:
        (F, 12): position, directions along a row and down a column, spacing of rows and of columns,
        distance between frames or 0; and (F,), the number of the segment, 0 where the pixels tell.

    Raises:
        DataError: a position is no number, or there are more or fewer than frames.
        AttributeError, LookupError, ValueError: it is damaged otherwise.
    """
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    frames = dataset.PerFrameFunctionalGroupsSequence
    positions = np.empty((len(frames), 12))
    segments = np.zeros(len(frames), np.intp)
    for index, frame in enumerate(frames):
        groups = {name: (frame if name in frame else shared) for name in GROUPS}
        corner, directions, spacing = (groups[name][name][0][key].value for name, key in GROUPS.items())
        apart = groups[MEASURES][MEASURES][0].get("SpacingBetweenSlices") or 0
        positions[index] = [float(number) for number in (*corner, *directions, *spacing, apart)]
        identified = frame.get(SEGMENT) or shared.get(SEGMENT)
        if identified:
            segments[index] = int(identified[0].ReferencedSegmentNumber)
    # Written so that NaN fails it.
    if len(frames) != int(dataset.NumberOfFrames) or not (np.abs(positions) <= FARTHEST).all():
        raise DataError(
            f"{file}: the positions of its frames are no numbers, or are not {dataset.NumberOfFrames}",
            "export it again",
        )
    return positions, segments
