"""Reading scans and label maps from disk, trusting nothing that a header says.

A format is a file here with two functions, `read` and `geometry`; `read_scan` and `read_geometry`
choose among them by the name of the file.
"""

import importlib
from pathlib import Path
from types import ModuleType

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.scan import Scan, check_memory

NIFTI = (".nii.gz", ".nii", ".hdr", ".img", ".hdr.gz", ".img.gz")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")

__all__ = ["Scan", "check_memory", "read_geometry", "read_scan"]


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


def read_geometry(*paths: Path) -> Geometry:
    """Shape and affine of a volume, from its header alone.

    Raises:
        DataError: as `read_scan`, as far as a header can tell.
    """
    geometry: Geometry = _reader(paths[0]).geometry(*paths)
    return geometry


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
    """Whether a file carries the mark of DICOM's part 10, or bears its suffix."""
    if path.name.lower().endswith((".dcm", ".dicom", ".ima")):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
