"""The voxels of a MetaImage or NRRD volume: all of them, unpacked, with their check sum compared."""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.readers.itk_header import Fields, ItkHeader, is_meta

BLOCK = 1 << 20
PACKED = {"raw": False, "gzip": True, "gz": True}
"""NRRD's encodings that are read; the others are text, or bzip2, which ITK does not read either."""


def read_voxels(header: ItkHeader, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Read the voxels that a header claims.

    Args:
        header: of the volume.
        dtype: of a stored number.
        shape: (I, J, K); I changes fastest in the file.

    Returns:
        (I, J, K), of `dtype`; nothing but what the file holds.

    Raises:
        DataError: too few bytes or too many, a wrong check sum, or packed in a way that is not read.
    """
    path = header.path
    packed, skip = _packing(path, header.fields)
    count = int(np.prod(shape, dtype=np.int64))
    needed = count * dtype.itemsize + max(skip, 0)
    try:
        held, flat = _unpacked(header, dtype, count, skip) if packed else _raw(header, dtype, count, skip)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path.name} is damaged ({type(error).__name__})", "fetch it again") from None
    # A skip of -1 says that the voxels are the last bytes of the file, whatever is before them.
    if flat is None or (skip >= 0 and held > needed):
        more = "more" if held > needed else held
        raise DataError(
            f"{path.name} is damaged: its header claims {needed} bytes of data, its data are {more}",
            "fetch it again",
        )
    return flat.reshape(shape[::-1]).T


def _packing(path: Path, fields: Fields) -> tuple[bool, int]:
    """Whether the voxels are compressed, and how many bytes are before them."""
    if is_meta(path):
        binary, packed = (
            fields.get(name, default).lower().startswith(("t", "1"))
            for name, default in (("BinaryData", "True"), ("CompressedData", "False"))
        )
        known, skip, lines = binary, fields.get("HeaderSize", "0"), "0"
    else:
        encoding = fields.get("encoding", "").lower()
        known, packed = encoding in PACKED, PACKED.get(encoding, False)
        skip, lines = fields.get("byteskip", "0"), fields.get("lineskip", "0")
    # Bytes before compressed voxels mean one thing in MetaImage and another in NRRD.
    skips = r"0" if packed else r"-1|\d{1,15}"
    if not known or lines != "0" or not re.fullmatch(skips, skip):
        raise DataError(
            f"{path.name} stores its voxels as text, behind something else, or in a packing that is not read",
            "export it as raw or gzip",
        )
    return packed, int(skip)


Read = tuple[int, NDArray[Any] | None]
"""How many bytes there are, with what is skipped; the numbers, if there are enough."""


def _raw(header: ItkHeader, dtype: np.dtype[Any], count: int, skip: int) -> Read:
    held = header.data.stat().st_size - header.offset
    needed = count * dtype.itemsize
    if held < needed + max(skip, 0):
        return held, None
    offset = header.offset + (held - needed if skip < 0 else skip)
    return held, np.fromfile(header.data, dtype, count, offset=offset)


def _unpacked(header: ItkHeader, dtype: np.dtype[Any], count: int, skip: int) -> Read:
    """All compressed data, but not far beyond what is needed.

    Raises:
        EOFError: the stream ends before its check sum.
        ValueError: MetaImage's header gives their size wrongly or not at all.
        zlib.error: the check sum, or something before it, is wrong.
    """
    size = header.data.stat().st_size - header.offset
    if is_meta(header.path) and int(header.fields.get("CompressedDataSize", "0")) != size:
        raise ValueError
    flat = np.empty(count, dtype)
    room = flat.view(np.uint8).data
    held = 0
    with open(header.data, "rb") as file:
        file.seek(header.offset)
        # 47 takes the headers of zlib (MetaImage) and of gzip (NRRD), and compares the check sum of either.
        unpacking = zlib.decompressobj(47)
        while not unpacking.eof and held <= len(room):
            packed = unpacking.unconsumed_tail or file.read(BLOCK)
            block = unpacking.decompress(packed, BLOCK)
            if not packed and not block:
                raise EOFError
            room[held : held + len(block)] = block[: max(len(room) - held, 0)]
            held += len(block)
    return held, flat if held >= len(room) else None
