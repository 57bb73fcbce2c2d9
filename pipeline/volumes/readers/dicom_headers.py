"""What the headers of many DICOM files say, as far as it tells which files belong together.

A `Header` holds nothing that identifies a person, so that it may be kept on disk.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset

from pipeline.atomic import sha256_code
from pipeline.errors import DataError
from pipeline.progress import track
from pipeline.volumes.identity import fingerprint, keyed_hash, pseudonym
from pipeline.volumes.readers import is_dicom
from pipeline.volumes.readers.dicom_files import (
    COLOUR,
    IMAGE,
    kind_of,
    open_dataset,
    reading,
)
from pipeline.volumes.readers.dicom_index import HeaderIndex
from pipeline.volumes.readers.dicom_person import TAGS as PERSON
from pipeline.volumes.readers.dicom_person import identifying_words, names_person

TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "IssuerOfPatientID", "Rows", "Columns", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PhotometricInterpretation"),
    *("PerFrameFunctionalGroupsSequence", "ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence"),
    *PERSON,
)
CODE = (
    *(f"volumes/readers/dicom_{name}.py" for name in ("headers", "files", "person")),
    "volumes/identity.py",
)
"""What a header depends on, apart from its file."""
UNREADABLE = "unreadable DICOM file"


@dataclass(frozen=True)
class Header:
    """One DICOM file."""

    kind: str
    """As `dicom_files.kind_of`, or `UNREADABLE`."""
    modality: str = ""
    patient: str = ""
    """Pseudonym; of the study, where the file names no patient."""
    study: str = ""
    series: str = ""
    frame: str = ""
    """UID of the frame of reference."""
    instance: str = ""
    rows: int = 0
    columns: int = 0
    frames: int = 1
    orientation: tuple[float, ...] = ()
    """Directions of rows and columns; empty, if each frame has its own."""
    refers_to: tuple[str, ...] = ()
    """UIDs of the series that contours or a segmentation were drawn on."""
    refers_frames: tuple[str, ...] = ()
    """UIDs of their frames of reference."""
    refers_instance: str = ""
    """UID of one image of that series."""
    leaking: tuple[int, ...] = ()
    """Which parts of the file's absolute path hold the patient's identifier or name."""

    def to_json(self) -> str:
        """The header as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Header":
        """The header that `to_json` wrote.

        Raises:
            ValueError: it is not such a text.
            TypeError: as ValueError.
        """
        content: dict[str, Any] = json.loads(text)
        # JSON has no tuples.
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return cls(**values)


def read_headers(paths: Sequence[Path], index: Path | None = None) -> dict[Path, Header | None]:
    """The header of each file; None for those that are no DICOM.

    Args:
        paths: absolute.
        index: keeps headers from one look to the next, for files whose size and time did not
            change; None: read them all.
    """
    if index is None:
        return _looked(paths)
    # Pseudonyms of another salt are of no use; and a path may name a person, its keyed hash does not.
    made_by = f"{sha256_code(*CODE)[:16]}:{fingerprint()}"
    marks = {path: (keyed_hash(str(path)), f"{made_by}:{_stamp(path)}") for path in paths}
    with HeaderIndex(index) as kept:
        found = kept.get(marks.values())
        known = {path: _restored(found.get(mark)) for path, mark in marks.items()}
        fresh = _looked([path for path, header in known.items() if header is None])
        kept.put({marks[path]: _text(header) for path, header in fresh.items()})
    return {path: fresh[path] if header is None else header[0] for path, header in known.items()}


def _looked(paths: Sequence[Path]) -> dict[Path, Header | None]:
    return {path: header_of(path) for path in track(paths, "reading DICOM headers", len(paths))}


def header_of(path: Path) -> Header | None:
    """The header of one file, by its absolute path; None, if it is no DICOM file."""
    if not is_dicom(path):
        return None
    try:
        with reading(path.name):
            header = _header(path, open_dataset(path, tags=TAGS))
    except DataError:
        return Header(UNREADABLE)
    # Every image has rows; of a file that ends before them pydicom gives the beginning.
    cut_off = header.kind in (IMAGE, COLOUR) and not (header.rows and header.columns)
    return Header(UNREADABLE) if cut_off else header


def _header(path: Path, dataset: Dataset) -> Header:
    kind = kind_of(dataset)
    words = identifying_words(dataset)
    drawn_on, frames, instance = _references(dataset)
    orientation = dataset.get("ImageOrientationPatient") if kind in (IMAGE, COLOUR) else None
    return Header(
        kind=kind,
        modality=_text_of(dataset, "Modality"),
        patient=_patient(dataset),
        study=_text_of(dataset, "StudyInstanceUID"),
        series=_text_of(dataset, "SeriesInstanceUID"),
        frame=_text_of(dataset, "FrameOfReferenceUID"),
        instance=_text_of(dataset, "SOPInstanceUID"),
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        frames=int(dataset.get("NumberOfFrames") or 1),
        orientation=tuple(float(number) for number in orientation or ()),
        refers_to=drawn_on,
        refers_frames=frames,
        refers_instance=instance,
        leaking=tuple(i for i, part in enumerate(path.parts) if words and names_person(part, words)),
    )


def _patient(dataset: Dataset) -> str:
    """Whoever has one identifier is one patient; hospitals may give the same to different ones."""
    parts = [_text_of(dataset, "PatientID"), _text_of(dataset, "IssuerOfPatientID")]
    study = _text_of(dataset, "StudyInstanceUID") or _text_of(dataset, "SeriesInstanceUID")
    return pseudonym("\n".join(part for part in parts if part) if parts[0] else f"study\n{study}")


def _references(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """UIDs of the series that a mask was drawn on, of their frames of reference, and of one image."""
    frames = [
        _text_of(item, "FrameOfReferenceUID")
        for item in _items(dataset, "ReferencedFrameOfReferenceSequence")
    ]
    series = [
        *_items(dataset, "ReferencedSeriesSequence"),
        *(
            item
            for frame in _items(dataset, "ReferencedFrameOfReferenceSequence")
            for study in _items(frame, "RTReferencedStudySequence")
            for item in _items(study, "RTReferencedSeriesSequence")
        ),
    ]
    images = [
        _text_of(image, "ReferencedSOPInstanceUID")
        for item in series
        for sequence in ("ContourImageSequence", "ReferencedInstanceSequence")
        for image in _items(item, sequence)[:1]
    ]
    uids = (_text_of(item, "SeriesInstanceUID") for item in series)
    return _unique(uids), _unique([*frames, _text_of(dataset, "FrameOfReferenceUID")]), next(iter(images), "")


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    return list(dataset.get(keyword) or ())


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _text_of(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "gone"
    return f"{status.st_size}:{status.st_mtime_ns}"


def _text(header: Header | None) -> str:
    return "null" if header is None else header.to_json()


def _restored(text: str | None) -> tuple[Header | None] | None:
    """What the index kept, in a tuple; None, if there is nothing of use."""
    try:
        return None if text is None else (None if text == "null" else Header.from_json(text),)
    except (ValueError, TypeError, AttributeError):
        return None
