"""What the header of a MetaImage or NRRD volume says of its voxels: type, shape, place in the patient."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.readers.itk_header import Fields, is_meta

LPS, RAS, LAS = (-1.0, -1.0, 1.0), (1.0, 1.0, 1.0), (-1.0, 1.0, 1.0)
"""By what the numbers of a space are multiplied to count to the right, to the front and up."""
SPACES = {
    **dict.fromkeys(("", "left-posterior-superior", "lps"), LPS),
    **dict.fromkeys(("right-anterior-superior", "ras"), RAS),
    **dict.fromkeys(("left-anterior-superior", "las"), LAS),
}
"""NRRD's patient spaces; where none is named, ITK's own is meant."""
META_TYPES = {
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    # A long of MetaImage has 32 bits everywhere.
    "LONG": "i4",
    "ULONG": "u4",
    "LONG_LONG": "i8",
    "ULONG_LONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}
NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": (
        *("longlong", "long long", "long long int", "signed long long", "signed long long int"),
        *("int64", "int64_t"),
    ),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
NO_POSITION = {"none", "domain", "space", "time", "???"}
"""NRRD's kinds of an axis along which a voxel has one number."""


@dataclass(frozen=True)
class Grid:
    """The voxels that a header announces."""

    shape: tuple[int, ...]
    """(I, J, K), or as many axes as there are."""
    dtype: np.dtype[np.generic]
    """As they are stored, with the order of bytes."""
    affine: NDArray[np.float64]
    """4×4, voxel indices to millimetres in RAS+; of the first three axes."""
    numbers: int = 1
    """A voxel."""


def grid_of(path: Path, fields: Fields) -> Grid:
    """The grid in a header that was checked.

    Raises:
        DataError: it is not complete, contradicts itself, or is in a space without left and right.
    """
    return _meta(fields) if is_meta(path) else _nrrd(path, fields)


def _meta(fields: Fields) -> Grid:
    shape = tuple(int(float(size)) for size in fields["DimSize"].split())
    n = len(shape)
    kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
    big = any(
        fields.get(name, "").lower().startswith(("t", "1"))
        for name in ("ElementByteOrderMSB", "BinaryDataByteOrderMSB")
    )
    spacing = _numbers(_first(fields, ("ElementSpacing", "ElementSize"), "1 " * n))
    rotation = _first(fields, ("TransformMatrix", "Rotation", "Orientation"), "")
    # A row for each axis of the voxels.
    axes = _numbers(rotation).reshape(n, n) if rotation else np.eye(n)
    origin = _numbers(_first(fields, ("Offset", "Position", "Origin"), "0 " * n))
    numbers = int(float(fields.get("ElementNumberOfChannels", "1")))
    dtype = np.dtype(f"{'>' if big else '<'}{META_TYPES[kind]}")
    return Grid(shape, dtype, _affine(axes * spacing[:, None], origin, LPS), numbers)


def _nrrd(path: Path, fields: Fields) -> Grid:
    sizes = [int(size) for size in fields.get("sizes", "").split()]
    n = len(sizes)
    vectors = [_vector(text) for text in re.findall(r"\([^)]*\)|none", fields.get("spacedirections", ""))]
    kinds = re.findall(r"\S+", fields.get("kinds", "").lower()) or ["none"] * n
    if not (n == int(fields.get("dimension", "0")) > 0 and len(kinds) == n and len(vectors) in (0, n)):
        raise _misunderstood(path, "another number of axes than it says")
    space = fields.get("space", "").lower()
    if space not in SPACES:
        raise DataError(
            f"{path.name} is in the space '{space[:40]}', which does not say where left is",
            "export it in the space left-posterior-superior",
        )
    if vectors:
        inner = [axis for axis in range(n) if vectors[axis] is None or kinds[axis] not in NO_POSITION]
        steps = [vector for axis, vector in enumerate(vectors) if vector is not None and axis not in inner]
    else:
        inner = [axis for axis in range(n) if kinds[axis] not in NO_POSITION]
        given = fields.get("spacings", "").split()
        if len(given) != n:
            raise _misunderstood(path, f"not {n} spacings")
        scaled = np.diag([float(number) for axis, number in enumerate(given) if axis not in inner])
        steps = [np.array(row) for row in scaled]
    shape = tuple(size for axis, size in enumerate(sizes) if axis not in inner)
    origin = _vector(fields.get("spaceorigin", "none"))
    origin = np.zeros(len(shape)) if origin is None else origin
    if any(len(vector) != len(shape) for vector in (*steps, origin)):
        raise _misunderstood(path, "another number of axes in its space than in its data")
    affine = _affine(np.array(steps), origin, SPACES[space])
    return Grid(shape, _nrrd_type(path, fields), affine, math.prod(sizes[axis] for axis in inner))


def _nrrd_type(path: Path, fields: Fields) -> np.dtype[np.generic]:
    said = fields.get("type", "").lower()
    code = next((code for code, names in NRRD_TYPES.items() if said in names), None)
    if code is None:
        raise _misunderstood(path, "no known type")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
    if not order and not code.endswith("1"):
        raise _misunderstood(path, "no endian")
    return np.dtype(f"{order}{code}")


def _affine(
    steps: NDArray[np.float64], origin: NDArray[np.float64], signs: tuple[float, ...]
) -> NDArray[np.float64]:
    """Of an axis a row: how far, in millimetres of the file's space, its next voxel is."""
    affine = np.eye(4)
    if len(steps) >= 3:
        affine[:3, :3] = steps[:3, :3].T
        affine[:3, 3] = origin[:3]
        affine[:3] *= np.array(signs)[:, None]
    return affine


def _first(fields: Fields, names: tuple[str, ...], default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)


def _numbers(text: str) -> NDArray[np.float64]:
    return np.array([float(number) for number in text.split()], np.float64)


def _vector(text: str) -> NDArray[np.float64] | None:
    """`(1,2,3)`; None for `none`."""
    return None if text == "none" else np.array([float(n) for n in text.strip("()").split(",")], np.float64)


def _misunderstood(path: Path, what: str) -> DataError:
    return DataError(f"{path.name} cannot be read: its header has {what}", "export it again")
