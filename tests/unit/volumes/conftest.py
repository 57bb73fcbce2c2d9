"""Files that annotate an image, made by code: contours (RTSTRUCT) and segmentations (SEG)."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.volumes.geometry import Geometry

CLOSED = "CLOSED_PLANAR"


def _write_rtstruct(path: Path, rois: Sequence[tuple[str, Sequence[Any] | None]]) -> Path:
    """Write regions of interest, each a name and its contours, or None for no item of its own.

    A contour is its corners (N, 3) in millimetres, LPS; or a pair of its type and its coordinates.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality = "RTSTRUCT"
    dataset.PatientName = "Doe^Jane"
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    for number, (name, contours) in enumerate(rois, start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName = number, name
        dataset.StructureSetROISequence.append(roi)
        if contours is not None:
            item = Dataset()
            item.ReferencedROINumber = number
            item.ContourSequence = [_contour(contour) for contour in contours]
            dataset.ROIContourSequence.append(item)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _contour(contour: Any) -> Any:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    kind, corners = contour if isinstance(contour, tuple) else (CLOSED, contour)
    numbers = [corner if isinstance(corner, str) else f"{corner:.12g}" for corner in np.ravel(corners)]
    item = Dataset()
    item.ContourGeometricType = kind
    item.NumberOfContourPoints = len(numbers) // 3
    value = "\\".join(numbers).encode()
    value += b" " * (len(value) % 2)
    # As bytes: damaged numbers have to reach the file as they are.
    tag = Tag("ContourData")
    item[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    return item


def _ct_series(geometry: Geometry) -> list[Any]:
    """The slices of an empty CT that has this geometry, first slice first."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    slices = []
    for k in range(geometry.shape[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, frame
        image.PatientID, image.PatientName, image.Modality = "1", "Doe^Jane", "CT"
        image.PatientBirthDate = image.PatientSex = image.AccessionNumber = image.StudyID = ""
        image.StudyDate = image.StudyTime = image.ReferringPhysicianName = ""
        image.InstanceNumber = k + 1
        image.Rows, image.Columns = geometry.shape[1], geometry.shape[0]
        image.PixelSpacing = [float(spacing[1]), float(spacing[0])]
        image.SliceThickness = float(spacing[2])
        image.ImageOrientationPatient = [*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1])]
        image.ImagePositionPatient = [float(number) for number in (lps @ [0, 0, k, 1])[:3]]
        slices.append(image)
    return slices


def _write_ct_series(folder: Path, geometry: Geometry) -> list[Path]:
    """Write that CT; its files, first slice first."""
    folder.mkdir(parents=True)
    paths = []
    for image in _ct_series(geometry):
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = bytes(2 * image.Rows * image.Columns)
        paths.append(folder / f"{image.InstanceNumber}.dcm")
        image.save_as(paths[-1], enforce_file_format=True)
    return paths


def _write_seg(
    path: Path,
    geometry: Geometry,
    masks: dict[str, Any],
    kind: str = "BINARY",
    change: Any = None,
    **options: Any,
) -> Path:
    """Write masks (I, J, K) by name as the segments of one SEG.

    Args:
        path: to write.
        geometry: of the image.
        masks: bool, or fractions from 0 to 1.
        kind: BINARY, FRACTIONAL or LABELMAP.
        change: called with the dataset before it is written.
        options: of `highdicom.seg.Segmentation`.
    """
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    pixels = np.stack([mask.transpose(2, 1, 0) for mask in masks.values()], axis=-1)
    seg = highdicom.seg.Segmentation(
        source_images=_ct_series(geometry),
        pixel_array=pixels if pixels.dtype == float else pixels.astype(np.uint8),
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="none",
        manufacturer_model_name="none",
        software_versions="0",
        device_serial_number="0",
        **options,
    )
    if change is not None:
        change(seg)
    seg.save_as(path)
    return path


@pytest.fixture
def write_rtstruct() -> Any:
    return _write_rtstruct


@pytest.fixture
def write_ct_series() -> Any:
    return _write_ct_series


@pytest.fixture
def write_seg() -> Any:
    return _write_seg


@pytest.fixture(scope="session")
def dicom() -> ModuleType:
    """The module that makes DICOM files: tests are in no package that it could be imported from."""
    path = Path(__file__).with_name("dicom_by_code.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
