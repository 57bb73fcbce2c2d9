"""What a derived DICOM object takes over from the series it was made from."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import Dataset

from pipeline.errors import DataError
from pipeline.volumes.readers.dicom import planes
from pipeline.volumes.readers.dicom_files import open_dataset, reading
from pipeline.volumes.readers.dicom_planes import Plane

STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""The standard lets each be empty, but not absent."""
REFERRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
"""By which a derived object refers to its series."""
MAKER = "Hounsfield"
UTF_8 = "ISO_IR 192"


def repeat_study(derived: Dataset, image: Dataset) -> None:
    """Let a derived object say who the patient is and which study this is, in the words of an image of it."""
    if "SpecificCharacterSet" in image:
        derived.SpecificCharacterSet = image.SpecificCharacterSet
    for keyword in STUDY:
        setattr(derived, keyword, image[keyword].value)


def write_in_utf_8(derived: Dataset, names: Iterable[str]) -> None:
    """Let a derived object say that its texts are UTF-8, if names of labels need more than ASCII.

    The character set of the series may not have their letters, and '?' would stand for each.
    """
    if not all(name.isascii() for name in names):
        derived.SpecificCharacterSet = UTF_8


def sources(series: Sequence[Path]) -> tuple[list[Plane], dict[Path, Dataset]]:
    """The slices of a series in the order of the last axis of its array, and the headers of its files.

    Raises:
        DataError: the files are no regular volume of one series, or lack what is needed to refer to them.
    """
    ordered = planes(*series)
    files = dict.fromkeys(plane.path for plane in ordered)
    name = f"a DICOM series of {len(series)} files"
    with reading(name):
        images = {path: open_dataset(path) for path in files}
        for image in images.values():
            for keyword in STUDY:
                if keyword not in image:
                    setattr(image, keyword, None)
        lacking = [keyword for keyword in REFERRED if any(not one.get(keyword) for one in images.values())]
    if lacking:
        raise DataError(
            f"{name} lacks {', '.join(lacking)}, by which SEG and RTSTRUCT refer to it",
            "write NIfTI, without --format, or restore what was lost in making the series anonymous",
        )
    return ordered, images
