"""Small DICOM files made by code, sound ones and all sorts of others."""

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

ROWS, COLUMNS = 24, 20
SERIES, STUDY, FRAME = "1.2.3.1", "1.2.3.2", "1.2.3.3"
STEP = 3.0


def pixels_of(k, rows=ROWS, columns=COLUMNS):
    """Different in every voxel and slice, some of them negative."""
    return (np.arange(rows * columns).reshape(rows, columns) + 100 * k - 40).astype(np.int16)


def dataset_of(k=0, pixels=None, syntax=ExplicitVRLittleEndian, **elements):
    """One slice of a CT; an element that is None is left out."""
    pixels = pixels_of(k) if pixels is None else pixels
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    content = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "FrameOfReferenceUID": FRAME,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Manufacturer": "ACME",
        "ManufacturerModelName": "Scan 3000",
        "PatientID": "case-0815",
        "PatientName": "Doe^Jane",
        "ImagePositionPatient": [10.0, 20.0, 30.0 + STEP * k],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [2.0, 1.5],
        "Rows": pixels.shape[-2] if pixels.ndim == 2 else pixels.shape[0],
        "Columns": pixels.shape[-1] if pixels.ndim == 2 else pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": 8 * pixels.dtype.itemsize,
        "HighBit": 8 * pixels.dtype.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "RescaleSlope": 1.0,
        "RescaleIntercept": -1000.0,
        "PixelData": pixels.astype(
            pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")
        ).tobytes(),
    } | elements
    with pydicom.config.disable_value_validation():
        for keyword, value in content.items():
            if value is not None:
                setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = content["SOPClassUID"] or CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = content["SOPInstanceUID"]
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if pixels.dtype.itemsize > 1 else "OB"
    return dataset


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        # What is wrong with a file is meant to be.
        warnings.simplefilter("ignore")
        dataset.save_as(
            path,
            enforce_file_format=True,
            **(
                {}
                if syntax not in (ImplicitVRLittleEndian, ExplicitVRBigEndian)
                else {
                    "implicit_vr": syntax == ImplicitVRLittleEndian,
                    "little_endian": syntax != ExplicitVRBigEndian,
                }
            ),
        )
    return path


def save_without_preamble(dataset, path):
    """As programs wrote files before DICOM had a file format: no preamble, no word on the syntax."""
    bare = FileDataset(str(path), dataset, preamble=None, file_meta=FileMetaDataset())
    bare.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    return path


def write_series(folder, count=4, each=lambda k: {}, **elements):
    """`count` slices; `each(k)` gives what differs from slice to slice."""
    return [save(dataset_of(k, **(elements | each(k))), folder / f"slice{k}.dcm") for k in range(count)]


def expected(count=4, slope=1.0, intercept=-1000.0):
    """Voxels (I, J, K) of `write_series`."""
    return np.stack([pixels_of(k).T for k in range(count)], axis=-1) * slope + intercept


def enhanced(count=4, order=None, **elements):
    """An enhanced CT whose frames stand in `order`, each with a slope of its own."""
    order = list(range(count)) if order is None else order
    dataset = dataset_of(
        SOPClassUID=EnhancedCTImageStorage,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        NumberOfFrames=count,
        PixelData=b"".join(pixels_of(k).tobytes() for k in order),
        **elements,
    )
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([_item(PixelSpacing=[2.0, 1.5])])
    shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([_item(ImagePositionPatient=[10, 20, 30 + STEP * k])])
        frame.PixelValueTransformationSequence = Sequence([_item(RescaleSlope=k + 1, RescaleIntercept=-k)])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def drawn(kind="RTSTRUCT", series=SERIES, frame=FRAME, images=(), **elements):
    """Contours, or a segmentation, that refer to a series; without any region in them."""
    dataset = dataset_of(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3" if kind == "RTSTRUCT" else "1.2.840.10008.5.1.4.1.1.66.4",
        Modality=kind,
        SeriesInstanceUID=generate_uid(),
        PixelData=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        **({"FrameOfReferenceUID": None if kind == "RTSTRUCT" else frame} | elements),
    )
    refers = _item(SeriesInstanceUID=series) if series else None
    if refers is not None and images:
        refers.ContourImageSequence = Sequence([_item(ReferencedSOPInstanceUID=uid) for uid in images])
    if kind == "SEG":
        dataset.ReferencedSeriesSequence = Sequence([refers] if refers else [])
    else:
        reference = _item(**({"FrameOfReferenceUID": frame} if frame else {}))
        study = _item(ReferencedSOPInstanceUID=STUDY)
        study.RTReferencedSeriesSequence = Sequence([refers] if refers else [])
        reference.RTReferencedStudySequence = Sequence([study])
        dataset.ReferencedFrameOfReferenceSequence = Sequence([reference] if refers or frame else [])
    return dataset


def _item(**elements):
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def compressed(path: Path, syntax: str) -> Path:
    """Write a file again, compressed by GDCM in one of its syntaxes."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path
