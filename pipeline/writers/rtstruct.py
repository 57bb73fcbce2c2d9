"""Label maps as DICOM structure sets (RTSTRUCT): closed contours, as planning systems take them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pipeline.atomic import output_path
from pipeline.volumes.readers.dicom_files import RTSTRUCT, reading
from pipeline.volumes.readers.dicom_planes import Plane
from pipeline.writers.study import MAKER, repeat_study, sources, write_in_utf_8

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167))
"""That colour-blind people tell apart (Okabe and Ito 2008)."""
FLAT = 1e-6
"""Pixels that a corner may lie beside the line through its neighbours and be left out."""
Corners = NDArray[np.float64]


def write_rtstruct(
    path: Path, labels: NDArray[np.uint8], series: Sequence[Path], names: Mapping[str, int], model: str
) -> None:
    """Write a label map as contours on the slices of a series, whole or not at all.

    A contour runs half way between the last pixel inside and the first outside, so whoever asks for each
    pixel's centre whether it lies inside gets the label map back; holes are contours of their own, by the
    even-odd rule. Every label is a region, in the order of the values, also one without a contour. As the
    standard demands, the file repeats who the patient is and which study this is.

    Args:
        path: to write.
        labels: (I, J, K) as the series is read: column, row, slice.
        series: all files of the series, in any order.
        names: value of each label.
        model: what made it, for the description of the series.

    Raises:
        DataError: the series is no volume, or says too little of itself to refer to it.
        MissingError: it cannot be written there.
    """
    planes, images = sources(series)
    with reading(f"a DICOM series of {len(series)} files", "making a structure set of"):
        found = _structure_set(planes, images, model)
        _add_regions(found, labels, names, planes, images)
        write_in_utf_8(found, names)
        with output_path(path) as temporary:
            found.save_as(temporary, enforce_file_format=True)


def _structure_set(planes: Sequence[Plane], images: Mapping[Path, Dataset], model: str) -> Dataset:
    """All but the regions."""
    first, now = images[planes[0].path], datetime.now(UTC)
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = RTSTRUCT
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    repeat_study(found, first)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(found, keyword, first[keyword].value)
    found.Modality, found.SeriesInstanceUID, found.SeriesNumber = "RTSTRUCT", generate_uid(), 901
    found.SeriesDescription = f"Contours by {model}"[:64]
    found.PositionReferenceIndicator = found.OperatorsName = ""
    found.Manufacturer = found.ManufacturerModelName = MAKER
    found.SoftwareVersions = version("hounsfield")
    found.InstanceNumber, found.StructureSetLabel, found.ApprovalStatus = 1, "Automatic", "UNAPPROVED"
    found.InstanceCreationDate = found.StructureSetDate = now.strftime("%Y%m%d")
    found.InstanceCreationTime = found.StructureSetTime = now.strftime("%H%M%S")
    of_series, study, frame = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID = first.SeriesInstanceUID
    of_series.ContourImageSequence = [_reference(image) for image in images.values()]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [of_series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    found.ReferencedFrameOfReferenceSequence = [frame]
    return found


def _add_regions(
    found: Dataset,
    labels: NDArray[np.uint8],
    names: Mapping[str, int],
    planes: Sequence[Plane],
    images: Mapping[Path, Dataset],
) -> None:
    regions, contours, observations = [], [], []
    for number, name in enumerate(sorted(names, key=names.__getitem__), start=1):
        region, drawn, observed = Dataset(), Dataset(), Dataset()
        region.ROINumber = drawn.ReferencedROINumber = observed.ReferencedROINumber = number
        region.ReferencedFrameOfReferenceUID = found.FrameOfReferenceUID
        region.ROIName, region.ROIGenerationAlgorithm = name[:64], "AUTOMATIC"
        drawn.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
        drawn.ContourSequence = _contours(labels == names[name], planes, images)
        observed.ObservationNumber = number
        observed.RTROIInterpretedType = observed.ROIInterpreter = ""
        regions.append(region)
        contours.append(drawn)
        observations.append(observed)
    found.StructureSetROISequence, found.ROIContourSequence = regions, contours
    found.RTROIObservationsSequence = observations


def _reference(image: Dataset, frame: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if frame is not None:
        item.ReferencedFrameNumber = frame + 1
    return item


def _contours(
    mask: NDArray[np.bool_], planes: Sequence[Plane], images: Mapping[Path, Dataset]
) -> list[Dataset]:
    """Closed contours of a mask (I, J, K), slice by slice."""
    items = []
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        plane = planes[int(k)]
        image = images[plane.path]
        frame = plane.frame if int(image.get("NumberOfFrames") or 1) > 1 else None
        for corners in outlines(mask[:, :, k].T):
            x, y = (corners * plane.spacing).T[..., None]
            places = plane.position + x * plane.directions[0] + y * plane.directions[1]
            item = Dataset()
            item.ContourImageSequence = [_reference(image, frame)]
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(places)
            # To the micrometre; a decimal string has no more than 16 characters.
            item.ContourData = [f"{number:.3f}" for number in places.ravel()]
            items.append(item)
    return items


def outlines(mask: NDArray[np.bool_]) -> list[Corners]:
    """Closed polygons (N, 2) of column and row around a mask (rows, columns), of outer and inner edges.

    The last corner is not the first again.
    """
    from contourpy import contour_generator

    # A margin, so that what touches the border is closed.
    lines = contour_generator(z=np.pad(mask, 1).astype(np.float64)).lines(0.5)
    return [_without_flat_corners(np.asarray(line)[:-1] - 1) for line in lines]


def _without_flat_corners(corners: Corners) -> Corners:
    into, out = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    bends = np.abs(into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0]) > FLAT
    return corners[bends]
