"""The text headers of MetaImage and NRRD, read before ITK sees them: where do they send the reader?

Such a header may name any file of the machine as its data. Only a file in the header's own folder,
or below it, is accepted, and its name is checked before anything is opened. What ITK could read in
another way than this does (a line within a line, a field twice) is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError

META = (".mha", ".mhd")
LONGEST = 1 << 18
"""Bytes of text; what goes on for longer is no header."""
Fields = dict[str, str]


@dataclass(frozen=True)
class ItkHeader:
    """What a text header says."""

    fields: Fields
    """NRRD's in lower case without spaces."""
    data: Path
    """The file that holds the voxels."""
    offset: int
    """Where in that file the voxels begin, in bytes, but for what the header wants skipped."""
    detached: bool
    """Whether the voxels are in another file than the header."""


def read_header(path: Path) -> ItkHeader:
    """Read the header of `.mha`, `.mhd`, `.nrrd` or `.nhdr`.

    Raises:
        DataError: it is none, or its data file is not there or outside of its folder.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LONGEST)
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror})", "fetch it again") from None
    meta = path.name.lower().endswith(META)
    fields, name, end = _meta(path, text) if meta else _nrrd(path, text)
    if name is None or (meta and name.upper() == "LOCAL"):
        return ItkHeader(fields, path, end, detached=False)
    return ItkHeader(fields, _data_file(path, name), 0, detached=True)


def _meta(path: Path, text: bytes) -> tuple[Fields, str, int]:
    """Fields, data file and end of a MetaImage header, whose last line says where the voxels are."""
    fields: Fields = {}
    for line, end in _lines(path, text):
        parts = re.split("[=:]", line, maxsplit=1)
        if len(parts) != 2:
            raise _no_header(path, f"the line '{line[:40]}'")
        _add(path, fields, parts[0].strip(), parts[1].strip())
        if "ElementDataFile" in fields:
            return fields, fields["ElementDataFile"], end
    raise _no_header(path, "no ElementDataFile")


def _nrrd(path: Path, text: bytes) -> tuple[Fields, str | None, int]:
    """Fields, data file (None: this one) and end of an NRRD header, which ends with an empty line."""
    lines = _lines(path, text)
    if not re.fullmatch(r"NRRD000[1-5]", next(lines, ("", 0))[0]):
        raise _no_header(path, "no NRRD0001 to NRRD0005 at its beginning")
    fields: Fields = {}
    end = 0
    for line, place in lines:
        end = place
        if not line:
            break
        field = re.match(r"([^:#][^:]*): (.*)", line)
        if field:
            _add(path, fields, re.sub(r"\s", "", field[1]).lower(), field[2].strip())
        elif not line.startswith("#") and ":=" not in line:
            raise _no_header(path, f"the line '{line[:40]}'")
    return fields, fields.get("datafile"), end


def _lines(path: Path, text: bytes) -> Iterator[tuple[str, int]]:
    """Each line with the place where it ends."""
    end = 0
    while end < len(text):
        start, end = end, text.find(b"\n", end) + 1
        if end == 0:
            if len(text) == LONGEST:
                raise _no_header(path, f"no end within {LONGEST} bytes")
            end = len(text)
        line = text[start:end].rstrip(b"\r\n")
        # Some readers end a line at a carriage return, a string at a zero.
        if b"\r" in line or b"\0" in line:
            raise _no_header(path, "control characters")
        yield line.decode("latin-1"), end


def _add(path: Path, fields: Fields, name: str, value: str) -> None:
    if name in fields:
        raise _no_header(path, f"the field '{name[:40]}' twice")
    fields[name] = value


def _no_header(path: Path, what: str) -> DataError:
    return DataError(f"{path.name} cannot be read: its header has {what}", "export it again")


def _data_file(path: Path, name: str) -> Path:
    """The file that a header names.

    Raises:
        DataError: it is a list or a pattern, leads out of the folder, or is not there.
    """
    pure = PurePosixPath(name)
    if name.upper().startswith("LIST") or "%" in name:
        raise DataError(f"{path.name}: its voxels are in several files", "export it as one file")
    # The name itself may tell of a person or a machine: it is not repeated.
    if not name or pure.is_absolute() or ".." in pure.parts or re.search(r"[:\\]", name):
        raise DataError(
            f"{path.name}: its header names a data file outside of its folder",
            "put the data file beside the header, and only its name into it",
        )
    data = path.parent / pure
    if not data.is_file():
        raise DataError(f"{path.name}: its data file {pure.name} is not there", "add it")
    return data
