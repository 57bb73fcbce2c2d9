"""Reading scans and label maps from disk, trusting nothing that a header says.

A format is a file here with two functions, `read` and `geometry`, and further ones where it can do more;
`read_scan`, `read_geometry` and those beside them choose among the formats by the name of the file.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Literal

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.scan import Scan, check_memory

NIFTI = (".nii.gz", ".nii", ".hdr", ".img", ".hdr.gz", ".img.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
EARLY, SHORT = 0x18, 256
"""The element of group 8 that every DICOM object has, and bytes that those up to it are within."""

__all__ = [
    "Scan",
    "channels_in",
    "check_memory",
    "read_channels",
    "read_geometry",
    "read_label_map",
    "read_scan",
    "starts_negative",
]


def read_scan(*paths: Path) -> Scan:
    """Read one volume.

    Args:
        paths: of its file, companions behind it; or of all slices of a DICOM series.

    Raises:
        DataError: it is unreadable or damaged, not one three-dimensional volume of real numbers,
            would not fit into memory, holds NaN or infinity, or gives no usable spacing. The
            message begins with the file's name.
    """
    scan: Scan = _reader(paths[0]).read(*paths)
    return scan


def read_channels(*paths: Path) -> list[Scan]:
    """As `read_scan`, but a file may hold several channels: one behind the other along its fourth axis.

    Raises:
        DataError: as `read_scan`.
    """
    module = _reader(paths[0])
    several: list[Scan] = (
        module.read_channels(*paths) if hasattr(module, "read_channels") else [module.read(*paths)]
    )
    return several


def channels_in(*paths: Path) -> int:
    """How many channels `read_channels` gives, by the header alone.

    Raises:
        DataError: the header cannot be read.
    """
    module = _reader(paths[0])
    return int(module.channels_in(*paths)) if hasattr(module, "channels_in") else 1


def read_label_map(*paths: Path) -> Scan:
    """As `read_scan`, but whole numbers may come in the type they are stored in: bytes need no float32.

    Raises:
        DataError: as `read_scan`.
    """
    module = _reader(paths[0])
    scan: Scan = (module.read_label_map if hasattr(module, "read_label_map") else module.read)(*paths)
    return scan


def read_geometry(*paths: Path) -> Geometry:
    """Shape and affine of a volume, or of each of its channels, from its header alone.

    Raises:
        DataError: as `read_scan`, as far as a header can tell.
    """
    geometry: Geometry = _reader(paths[0]).geometry(*paths)
    return geometry


def starts_negative(*paths: Path) -> bool:
    """Whether a look at the beginning of a volume finds a negative value; False where none was looked for.

    Raises:
        DataError: as `read_scan`, as far as it was looked at.
    """
    module = _reader(paths[0])
    return bool(module.starts_negative(*paths)) if hasattr(module, "starts_negative") else False


def _reader(path: Path) -> ModuleType:
    """The module that reads the format; only that format's library is loaded."""
    name = path.name.lower()
    for format_name, suffixes in (("nifti", NIFTI), ("itk", ITK)):
        if name.endswith(suffixes):
            return importlib.import_module(f"{__name__}.{format_name}")
    if is_dicom(path):
        return importlib.import_module(f"{__name__}.dicom")
    known = ", ".join((*NIFTI[:2], *ITK))
    raise DataError(f"{path.name} is no DICOM file and none of {known}", "convert it to NIfTI")


def is_dicom(path: Path) -> bool:
    """Whether a file bears DICOM's suffix, or begins as DICOM does."""
    return path.name.lower().endswith((".dcm", ".dicom", ".ima")) or begins_as_dicom(path)


def begins_as_dicom(path: Path) -> bool:
    """Whether a file carries the mark of DICOM's part 10, or begins with an element as older ones do."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _is_element(head[:8])


def _is_element(head: bytes) -> bool:
    """Whether it is the beginning of an early element of group 2 or 8, in either byte order."""
    order: Literal["little", "big"] = "little" if head[1:2] == b"\0" else "big"
    group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
    if len(head) < 8 or group not in (2, 8) or element > EARLY:
        return False
    # The type of the value in two capital letters, or its length in four bytes.
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:], order) <= SHORT
