"""Opening the DICOM objects that annotate an image: contours (RTSTRUCT) and segmentations (SEG)."""

from pathlib import Path

from pydicom import Dataset

from pipeline.errors import DataError
from pipeline.volumes.readers.dicom_files import open_dataset, reading
from pipeline.volumes.readers.dicom_person import identifying_words, names_person
from pipeline.volumes.readers.dicom_structure import check_structure

FARTHEST = 1e5
"""Millimetres; a coordinate beyond is a broken number."""


def modality(path: Path) -> str:
    """DICOM's word for what a file holds: RTSTRUCT, SEG, CT, ...

    Raises:
        DataError: it is no DICOM file.
    """
    with reading(path.name):
        return str(open_dataset(path, tags=["SOPClassUID", "Modality"]).get("Modality") or "")


def read_annotation(path: Path, kind: str) -> tuple[Dataset, str]:
    """A whole DICOM file, which has to be of a modality, and what messages call it.

    Raises:
        DataError: it is unreadable, or something else.
    """
    with reading(path.name):
        dataset = open_dataset(path, pixels=True)
        name = f"a file of {kind}" if names_person(path.name, identifying_words(dataset)) else path.name
        # Not by its class: label maps have one of their own, and are SEG all the same.
        found = str(dataset.get("Modality") or "of no modality")[:16]
    if found != kind:
        raise DataError(f"{name} is {found}, not {kind}", f"give a {kind} file")
    check_structure(path, name, dataset)
    return dataset, name


def one_of_that_name(file: str, name: str, names: list[str]) -> int:
    """Where a name stands among those of a file.

    Raises:
        DataError: it is not there, or more than once.
    """
    if names.count(name) != 1:
        raise DataError(
            f"{file} holds {names.count(name)} regions called '{name[:40]}'",
            "rename them, and export again",
        )
    return names.index(name)
