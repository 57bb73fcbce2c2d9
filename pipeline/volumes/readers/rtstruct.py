"""Contours of radiotherapy (DICOM RTSTRUCT) as voxels of the image they were drawn on."""

from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.annotation import FARTHEST, one_of_that_name, read_annotation
from pipeline.volumes.readers.dicom_files import reading
from pipeline.volumes.readers.polygons import Indices, Numbers, fill
from pipeline.volumes.readers.region import Region

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OPEN = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
FLAT = 0.2
"""Slices that a contour may leave its plane, and that contours of one slice may lie apart."""
NOTED = 0.1
"""Slices between contour and slice from which a person is told."""
SAME_AGAIN = "draw it on this image, or give the image it was drawn on"


def names(path: Path) -> list[str]:
    """The names of a file's regions of interest (ROIs).

    Raises:
        DataError: it is unreadable, or no RTSTRUCT.
    """
    return Contours(path).names


def rasterise(path: Path, roi: str, geometry: Geometry) -> Region:
    """The voxels (I, J, K) whose centre lies in the contours of a region of interest.

    Raises:
        DataError: as `Contours.region`.
    """
    return Contours(path).region(roi, geometry)


class Contours:
    """The regions of interest of one RTSTRUCT.

    Raises:
        DataError: it is unreadable, or no RTSTRUCT.
    """

    def __init__(self, path: Path) -> None:
        dataset, self._file = read_annotation(path, "RTSTRUCT")
        with reading(self._file):
            rois = list(dataset.get("StructureSetROISequence") or ())
            contours = list(dataset.get("ROIContourSequence") or ())
            drawn = {
                int(item.ReferencedROINumber): list(item.get("ContourSequence") or ()) for item in contours
            }
            self.names = [str(item.get("ROIName") or "").strip() for item in rois]
            numbers = [int(item.ROINumber) for item in rois]
            self._contours = [drawn.get(number, []) for number in numbers]
        if not self.names:
            raise DataError(f"{self._file} holds no region of interest", "export it again, or remove it")
        if len(drawn) < len(contours) or len(set(numbers)) < len(rois) or not drawn.keys() <= set(numbers):
            raise DataError(
                f"{self._file}: the numbers of its regions of interest and of their contours do not match",
                "export it again",
            )
        self.empty = frozenset(
            name for name, contours in zip(self.names, self._contours, strict=True) if not contours
        )

    def region(self, name: str, geometry: Geometry) -> Region:
        """The voxels (I, J, K) whose centre lies in the contours of a region, by the even-odd rule.

        Nothing is interpolated: a slice without a contour stays empty, and is counted in a note.

        Raises:
            DataError: it has no closed contour, or a damaged one, lies wholly outside the image, or
                its planes are not those of the image's slices.
        """
        contours = self._contours[one_of_that_name(self._file, name, self.names)]
        what = f"{self._file}: '{name[:40]}'"
        if not contours:
            raise DataError(f"{what} has no contours", "draw it, or take it out of ingest.rois")
        points, starts, notes = self._closed(what, contours)
        voxels = _voxels(points, geometry)
        low, high = np.minimum.reduceat(voxels, starts), np.maximum.reduceat(voxels, starts)
        _check_inside(what, low, high, geometry)
        axis = _slice_axis(what, high - low)
        planes, more = _planes(what, (low[:, axis] + high[:, axis]) / 2, axis, geometry)
        beyond = ((low < -0.5) | (high > np.array(geometry.shape) - 0.5)).any(axis=1)
        if beyond.any():
            more.append(f"{beyond.sum()} of {len(starts)} contours reach beyond the image and are cut there")
        array = _filled(voxels, starts, planes, axis, geometry)
        if not array.any():
            more.append("holds no centre of a voxel")
        return Region(array, tuple(f"'{name[:40]}': {note}" for note in (*notes, *more)))

    def _closed(self, what: str, contours: list[pydicom.Dataset]) -> tuple[Numbers, Indices, list[str]]:
        """Corners (N, 3) of the closed contours in patient coordinates, where each begins, and notes."""
        found: dict[bytes, Numbers] = {}
        left_out: dict[str, int] = {}
        with reading(self._file):
            kinds = [str(contour.get("ContourGeometricType") or "of no type")[:16] for contour in contours]
        for number, (kind, contour) in enumerate(zip(kinds, contours, strict=True), start=1):
            if kind not in (*CLOSED, *OPEN):
                raise DataError(f"{what}: contour {number} is of no known type", "export it again")
            if kind in OPEN:
                left_out[kind] = left_out.get(kind, 0) + 1
                continue
            points = self._points(f"{what}: contour {number}", contour)
            if points.tobytes() in found:
                # By the even-odd rule, two of the same would be nothing.
                left_out["the same as another"] = left_out.get("the same as another", 0) + 1
            found[points.tobytes()] = points
        told = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        if not found:
            raise DataError(f"{what} has no closed contour (left out: {told})", "draw it as closed contours")
        lengths = [len(points) for points in found.values()]
        starts = np.cumsum([0, *lengths[:-1]])
        return np.concatenate(list(found.values())), starts, [f"contours left out: {told}"] if told else []

    def _points(self, what: str, contour: pydicom.Dataset) -> Numbers:
        """Corners (N, 3) of one contour, millimetres in DICOM's patient coordinates (LPS)."""
        with reading(self._file):
            # As long as nobody asks for the numbers it holds bytes; pydicom would make an object of each.
            stored = contour.get_item("ContourData")
            value = b"" if stored is None or stored.value is None else stored.value
            text = value.strip(b" \0").split(b"\\") if isinstance(value, bytes) else value
            numbers = np.fromiter(map(float, text), np.float64) if value else np.empty(0)
            claimed = int(contour.get("NumberOfContourPoints") or len(numbers) // 3)
        if len(numbers) % 3 or len(numbers) != 3 * claimed:
            reason = f"holds {len(numbers)} coordinates for {claimed} points"
        elif len(numbers) < 9:
            reason = f"has {claimed} points, which enclose nothing"
        # Written so that NaN fails it.
        elif not (np.abs(numbers) <= FARTHEST).all():
            reason = "has a coordinate that is no number of millimetres"
        else:
            return numbers.reshape(-1, 3)
        raise DataError(f"{what} {reason}", "delete that contour, or export it again")


def _voxels(points: Numbers, geometry: Geometry) -> Numbers:
    """Patient coordinates (N, 3) in LPS as fractional voxel indices (i, j, k)."""
    inverse = np.linalg.inv(geometry.affine)
    voxels: Numbers = points * (-1.0, -1.0, 1.0) @ inverse[:3, :3].T + inverse[:3, 3]
    return voxels


def _check_inside(what: str, low: Numbers, high: Numbers, geometry: Geometry) -> None:
    """Refuse what has no part in the image."""
    end = np.array(geometry.shape) - 0.5
    gap = np.maximum(np.maximum(-0.5 - high.max(axis=0), low.min(axis=0) - end), 0)
    apart = float(np.linalg.norm(geometry.affine[:3, :3] @ gap))
    if apart > 0:
        raise DataError(f"{what} lies {apart:.1f} mm outside the image", SAME_AGAIN)


def _slice_axis(what: str, extent: Numbers) -> int:
    """The axis of the image along which every contour is flat, k before j before i.

    Args:
        what: for the message.
        extent: (contours, 3), voxels from end to end.
    """
    worst = extent.max(axis=0)
    flat = np.flatnonzero(worst <= FLAT)
    if not flat.size:
        raise DataError(
            f"{what}: its contours are not parallel to the slices of the image "
            f"(one leaves its plane by {worst.min():.1f} slices)",
            SAME_AGAIN,
        )
    return int(flat[-1])


def _planes(what: str, position: Numbers, axis: int, geometry: Geometry) -> tuple[Indices, list[str]]:
    """The slice that each contour belongs to, and notes; some may lie beyond the image.

    Args:
        what: for the message.
        position: of each contour along `axis`, in slices.
        axis: of the image, across its slices.
        geometry: of the image.
    """
    planes = np.floor(position + 0.5).astype(np.intp)
    drawn, group = np.unique(planes, return_inverse=True)
    low, high = np.full(len(drawn), np.inf), np.full(len(drawn), -np.inf)
    np.minimum.at(low, group, position)
    np.maximum.at(high, group, position)
    worst = int(np.argmax(high - low))
    spacing = float(np.linalg.norm(geometry.affine[:3, axis]))
    if high[worst] - low[worst] > FLAT:
        apart = (high[worst] - low[worst]) * spacing
        raise DataError(
            f"{what}: contours {apart:.2f} mm apart fall on one slice of the image (number {drawn[worst]})",
            SAME_AGAIN,
        )
    notes = []
    off = float(np.abs(position - planes).max())
    if off > NOTED:
        notes.append(f"contours lie up to {off * spacing:.2f} mm beside the slices they were taken to")
    span = int(drawn[-1] - drawn[0]) + 1
    if span > len(drawn):
        notes.append(f"{span - len(drawn)} of {span} slices from its first contour to its last have none")
    return planes, notes


def _filled(
    voxels: Numbers, starts: Indices, planes: Indices, axis: int, geometry: Geometry
) -> NDArray[np.bool_]:
    """The voxels (I, J, K) within the contours that lie on a slice of the image."""
    shape = geometry.shape
    inside = (planes >= 0) & (planes < shape[axis])
    lengths = np.diff(np.append(starts, len(voxels)))
    across = [other for other in range(3) if other != axis]
    points = voxels[np.repeat(inside, lengths)][:, across]
    lengths = lengths[inside]
    if not lengths.size:
        return np.zeros(shape, np.bool_, order="F")
    size = (shape[across[0]], shape[across[1]], shape[axis])
    array = fill(points, np.cumsum(lengths) - lengths, planes[inside], size)
    return np.moveaxis(array, 2, axis)
