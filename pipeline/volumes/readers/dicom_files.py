"""Opening DICOM files without trusting them, and the kinds of objects they hold."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pipeline.errors import DataError, HounsfieldError
from pipeline.volumes.readers import begins_as_dicom

_STORAGE = "1.2.840.10008.5.1.4.1.1."
IMAGES = frozenset(_STORAGE + tail for tail in ("2", "2.1", "2.2", "4", "4.1", "4.4"))
"""CT, enhanced CT, converted CT; the same for MR."""
CAPTURES = frozenset(_STORAGE + tail for tail in ("7", "7.1", "7.2", "7.3", "7.4"))
RTSTRUCT = _STORAGE + "481.3"
SEGMENTATIONS = frozenset(_STORAGE + tail for tail in ("66.4", "66.7"))
"""With a frame for each segment, and as a label map."""
DIRECTORY = "1.2.840.10008.1.3.10"
KINDS = {
    "11.": "presentation state",
    "88.": "structured report",
    "104.": "encapsulated document",
    "481.": "radiotherapy plan or dose object",
    "128": "PET image",
    "130": "PET image",
    "12.": "X-ray image",
    "1": "X-ray image",
    "3.": "ultrasound image",
    "6.": "ultrasound image",
    "9.": "waveform",
    "20": "nuclear medicine image",
    "66": "derived object",
}
"""By how the class's number begins behind `_STORAGE`; the longest that fits counts."""
SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
IMAGE, COLOUR, SCOUT, CAPTURE = "image", "colour picture", "scout image", "secondary capture"


@contextmanager
def reading(name: str, doing: str = "reading") -> Iterator[None]:
    """Turn whatever goes wrong inside a library into one refusal of the file `name`.

    Neither warnings nor messages of exceptions are passed on, nor logged: they quote the file, which
    may name a person.
    """
    with warnings.catch_warnings(), disable_value_validation(), _unlogged():
        warnings.simplefilter("ignore")
        try:
            yield
        except HounsfieldError:
            raise
        except MemoryError:
            raise DataError(f"{name} does not fit into memory", "use a machine with more") from None
        # Damaged files make pydicom and the decoders raise nearly everything there is: struct.error,
        # AttributeError, RecursionError, bare Exceptions. Each of them means that the file is bad.
        except Exception as error:
            raise DataError(
                f"{name} is damaged ({type(error).__name__} on {doing} it)", "fetch it again"
            ) from None


@contextmanager
def _unlogged() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def open_dataset(path: Path, *, tags: Sequence[str] | None = None, pixels: bool = False) -> Dataset:
    """Read a file's header, or all of it; to be called, and its values asked for, within `reading`.

    Args:
        path: with DICOM's preamble or without.
        tags: read these elements alone.
        pixels: read the pixels, too.

    Raises:
        DataError: it is no DICOM file, or says not what kind of object it holds.
    """
    if not begins_as_dicom(path):
        raise DataError(f"{path.name} is no DICOM file", "fetch it again, or leave it out")
    # `force` is no danger here: the beginning was seen, and what has no class is refused.
    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=_list(tags))
    if not sop_class(dataset):
        raise DataError(
            f"{path.name} does not say what kind of object it holds (no SOP class)", "export it again"
        )
    _add_syntax(dataset)
    return dataset


def _add_syntax(dataset: Dataset) -> None:
    """Files without the preamble do not say how they are written; pydicom saw it in reading them."""
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = native if little else ExplicitVRBigEndian


def sop_class(dataset: Dataset) -> str:
    """The class of the object, by its own element or else by that of the file; '' without one."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    return str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")


def kind_of(dataset: Dataset) -> str:
    """What an object is, in words: `IMAGE`, 'RTSTRUCT', 'SEG', or what it is instead."""
    uid = sop_class(dataset)
    if uid == RTSTRUCT or uid in SEGMENTATIONS:
        return "RTSTRUCT" if uid == RTSTRUCT else "SEG"
    if uid in IMAGES:
        types = {str(word).upper() for word in _many(dataset.get("ImageType"))}
        return SCOUT if types & SCOUTS else IMAGE
    if uid in CAPTURES:
        return _capture(dataset)
    if uid == DIRECTORY:
        return "DICOMDIR file"
    tail = uid.removeprefix(_STORAGE) if uid.startswith(_STORAGE) else ""
    fitting = [start for start in KINDS if tail == start or tail.startswith(f"{start.rstrip('.')}.")]
    return KINDS[max(fitting, key=len)] if fitting else "other object"


def _capture(dataset: Dataset) -> str:
    """Some programs export the volumes they made as captures; such a one knows where it lies."""
    placed = "ImagePositionPatient" in dataset or "PerFrameFunctionalGroupsSequence" in dataset
    if not placed or str(dataset.get("Modality", "")) not in ("CT", "MR"):
        return CAPTURE
    return IMAGE if str(dataset.get("PhotometricInterpretation", "")).startswith("MONOCHROME") else COLOUR


def _many(value: object) -> list[object]:
    return list(value) if isinstance(value, MultiValue) else [value]


def _list(tags: Sequence[str] | None) -> list[str] | None:
    return None if tags is None else list(tags)
