"""The text headers of MetaImage and NRRD: what do they say, and where do they send the reader?

Such a header may name any file of the machine as its data. Only a file in the header's own folder,
or below it, is accepted, and its name is checked before anything is opened. What ITK could read in
another way than this does (a line within a line, a field twice, a word for a number) is refused.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError

META = (".mha", ".mhd")
AXES = {
    **dict.fromkeys(("CompressedDataSize", "HeaderSize", "ElementNumberOfChannels"), 0),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 0),
    **dict.fromkeys(("DimSize", "ElementSpacing", "ElementSize", "CenterOfRotation"), 1),
    **dict.fromkeys(("Offset", "Position", "Origin"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
"""MetaImage's fields with one number, with one an axis, and with one for each two axes."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
TYPES = re.compile(r"MET_(U?(CHAR|SHORT|INT|LONG|LONG_LONG)|FLOAT|DOUBLE)(_ARRAY)?")
"""MetaImage's types of numbers."""
LARGEST = 1e9
"""No number in a header is larger."""
VECTOR = rf"\(\s*{NUMBER}\s*(?:,\s*{NUMBER}\s*)*\)"
NRRD = {
    "dimension": r"\d+",
    "sizes": r"\d+(?:\s+\d+)*",
    "spacings": rf"(?:{NUMBER}|nan)(?:\s+(?:{NUMBER}|nan))*",
    "spacedirections": rf"(?:{VECTOR}|none)(?:\s*(?:{VECTOR}|none))*",
    "spaceorigin": VECTOR,
}
"""NRRD's fields of numbers, whole."""
NRRD_FIELDS = {
    *("dimension", "type", "blocksize", "encoding", "endian", "content", "min", "max", "oldmin", "oldmax"),
    *("datafile", "lineskip", "byteskip", "number", "sampleunits", "sizes", "spacings", "thicknesses"),
    *("axismins", "axismaxs", "centers", "centerings", "labels", "units", "kinds", "space"),
    *("spacedimension", "spaceunits", "spaceorigin", "spacedirections", "measurementframe"),
}
"""All that the format knows: a misspelt `space` would put left to the right."""
LONGEST = 1 << 18
"""Bytes of text; what goes on for longer is no header."""
Fields = dict[str, str]


@dataclass(frozen=True)
class ItkHeader:
    """What a text header says."""

    path: Path
    """Of the header."""
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
    fields, name, end = _meta(path, text) if is_meta(path) else _nrrd(path, text)
    if name is None or (is_meta(path) and _is_here(name)):
        return ItkHeader(path, fields, path, end, detached=False)
    return ItkHeader(path, fields, _data_file(path, name), 0, detached=True)


def is_meta(path: Path) -> bool:
    """Whether it is a MetaImage, not NRRD."""
    return path.name.lower().endswith(META)


def _meta(path: Path, text: bytes) -> tuple[Fields, str, int]:
    """Fields, data file and end of a MetaImage header, whose last line says where the voxels are."""
    fields: Fields = {}
    for line, end in _lines(path, text):
        parts = re.split("[=:]", line, maxsplit=1)
        if len(parts) != 2:
            raise _no_header(path, "a line that is no field")
        _add(path, fields, parts[0].strip(), parts[1].strip())
        if "ElementDataFile" in fields:
            _check_meta(path, fields)
            if not _is_here(fields["ElementDataFile"]) and text[end:].strip():
                raise _no_header(path, "lines behind ElementDataFile")
            return fields, fields["ElementDataFile"], end
    raise _no_header(path, "no ElementDataFile")


def _is_here(name: str) -> bool:
    """Whether MetaImage's data follow in the same file."""
    return name.upper() == "LOCAL"


def _check_meta(path: Path, fields: Fields) -> None:
    """Refuse a MetaImage header that lacks a field or has words where numbers belong."""
    missing = [name for name in ("NDims", "DimSize", "ElementType") if name not in fields]
    if missing:
        raise _no_header(path, f"no {missing[0]}")
    if not TYPES.fullmatch(fields["ElementType"]):
        raise _no_header(path, "no known ElementType")
    first = next(name for name in fields if name == "NDims" or AXES.get(name))
    if first != "NDims" or not re.fullmatch("[1-9]", fields["NDims"]):
        raise _no_header(path, f"no number of axes before {'DimSize' if first == 'NDims' else first}")
    n = int(fields["NDims"])
    for name, value in fields.items():
        if name in AXES:
            wanted = n ** AXES[name]
            if not (re.fullmatch(rf"({NUMBER}\s+){{{wanted - 1}}}{NUMBER}", value) and _within(value)):
                raise _no_header(path, f"not {wanted} numbers for {name}")
        elif not value and name != "Comment":
            raise _no_header(path, "a field without a value")


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
            raise _no_header(path, "a line that is no field")
    if not fields.keys() <= NRRD_FIELDS:
        raise _no_header(path, "a field that NRRD does not have")
    if {"spacedirections", "spaceorigin"} & fields.keys() and not {"space", "spacedimension"} & fields.keys():
        raise _no_header(path, "directions or an origin, but no space that they are in")
    for name, pattern in NRRD.items():
        value = fields.get(name)
        if value is not None and not (re.fullmatch(pattern, value, re.IGNORECASE) and _within(value)):
            raise _no_header(path, f"no numbers for {name}")
    return fields, fields.get("datafile"), end


def _within(value: str) -> bool:
    """Whether no number in a field is too large."""
    return all(abs(float(number)) <= LARGEST for number in re.findall(NUMBER, value))


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
        raise _no_header(path, "a field twice")
    fields[name] = value


def _no_header(path: Path, what: str) -> DataError:
    """The refusal of a header; `what` repeats none of its text, which may name a person."""
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
