"""Whether the data of a MetaImage or NRRD volume are whole, seen before ITK reads them.

Of data that end too early ITK fills up the rest, or writes to the terminal; check sums it compares
only sometimes.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import DataError
from pipeline.volumes.readers.itk_header import Fields, ItkHeader, is_meta

BLOCK = 1 << 20
PACKED = {"raw": False, "gzip": True, "gz": True}
"""NRRD's encodings that are read; the others are text, or bzip2, which ITK is built without."""


def check_data(header: ItkHeader, needed: int) -> None:
    """Refuse data that are not exactly what the header claims, or do not have their check sum.

    Args:
        header: of the volume.
        needed: bytes of all voxels.

    Raises:
        DataError: too few bytes or too many, a wrong check sum, or packed in a way that is not read.
    """
    path = header.path
    packed, skip = _packing(path, header.fields)
    needed += max(skip, 0)
    try:
        held = _unpacked(header, needed) if packed else header.data.stat().st_size - header.offset
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path.name} is damaged ({type(error).__name__})", "fetch it again") from None
    # A skip of -1 says that the voxels are the last bytes of the file, whatever is before them.
    if held < needed or (skip >= 0 and held > needed):
        more = "more" if held > needed else held
        raise DataError(
            f"{path.name} is damaged: its header claims {needed} bytes of data, its data are {more}",
            "fetch it again",
        )


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
    if not known or lines != "0" or not re.fullmatch(r"-1|\d{1,15}", skip):
        raise DataError(
            f"{path.name} stores its voxels as text, after lines of text, or in a packing that is not read",
            "export it as raw or gzip",
        )
    return packed, int(skip)


def _unpacked(header: ItkHeader, needed: int) -> int:
    """How many bytes the compressed data give; all are unpacked, but not far beyond `needed`.

    Raises:
        ValueError: MetaImage's header gives their size wrongly or not at all, which ITK survives by
            handing out memory that nothing was written to.
    """
    size = header.data.stat().st_size - header.offset
    if is_meta(header.path) and int(header.fields.get("CompressedDataSize", "0")) != size:
        raise ValueError
    held = 0
    with open(header.data, "rb") as file:
        file.seek(header.offset)
        for block in _blocks(file):
            held += len(block)
            if held > needed:
                break
    return held


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """What a compressed stream unpacks to.

    Raises:
        EOFError: it ends before its check sum.
        zlib.error: its check sum, or something before it, is wrong.
    """
    # 47 takes the headers of zlib (MetaImage) and of gzip (NRRD), and compares the check sum of either.
    unpacking = zlib.decompressobj(47)
    while not unpacking.eof:
        packed = unpacking.unconsumed_tail or file.read(BLOCK)
        block = unpacking.decompress(packed, BLOCK)
        if not packed and not block:
            raise EOFError
        yield block
