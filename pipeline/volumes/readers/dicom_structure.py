"""Whether a DICOM file is whole: its elements in order and within each other, down to the last item.

Nothing in a file tells that a contour is missing. What tells of damage is the way elements lie in each
other, of which pydicom makes what it can: of a sequence that ends too early it gives the items before.
"""

import struct
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, repeater_has_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from pipeline.errors import DataError

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
VRS = {str(vr).encode() for vr in STANDARD_VR}
LONG = {str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32}
FILE_META, BEHIND_META = 132, 0x00030000
"""Where the elements of group 2 begin, and the first tag that is none of them."""


class BrokenError(ValueError):
    """Elements that do not lie within each other as they say."""


def check_structure(path: Path, name: str, dataset: Dataset) -> None:
    """Refuse a file with elements that are cut off, out of order or unknown to DICOM.

    Args:
        path: of the file.
        name: of the file, for the message.
        dataset: as pydicom read it.

    Raises:
        DataError: it is damaged.
    """
    if dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        return
    implicit, little = dataset.original_encoding
    whole = path.read_bytes()
    try:
        start = 0
        if whole[128:FILE_META] == b"DICM":
            meta = _Walk(whole, implicit=False, little=True)
            start = meta.elements(FILE_META, len(whole), until=BEHIND_META)
        _Walk(whole, implicit=bool(implicit), little=bool(little)).elements(start, len(whole))
    except (BrokenError, RecursionError, struct.error):
        raise DataError(
            f"{name} is damaged: its elements do not lie within each other as they say", "fetch it again"
        ) from None


class _Walk:
    def __init__(self, whole: bytes, *, implicit: bool, little: bool) -> None:
        self._whole, self._implicit = whole, implicit
        self._tag = struct.Struct("<HH" if little else ">HH")
        self._short = struct.Struct("<H" if little else ">H")
        self._long = struct.Struct("<I" if little else ">I")

    def elements(self, at: int, end: int, *, until: int | None = None, delimited: bool = False) -> int:
        """Where the elements from `at` on end: at `end`, before a tag from `until` on, or delimited."""
        last = -1
        while at < end:
            # Some programs fill up to a block of the disk, with zeros.
            if end == len(self._whole) and not any(self._whole[at : at + 8]) and not any(self._whole[at:]):
                at = end
                break
            tag = self._tag_at(at)
            if delimited and tag == ITEM_END:
                return at + 8
            if until is not None and tag >= until:
                return at
            if tag <= last or not _is_known(tag):
                raise BrokenError
            last = tag
            at = self._after(tag, at, end)
        if delimited or at > end:
            raise BrokenError
        return at

    def _after(self, tag: int, at: int, end: int) -> int:
        """Where the element that begins at `at` ends."""
        vr, length, at = self._head(tag, at)
        if length == UNDEFINED:
            # Pixels in fragments, or a sequence; of unknown type, it is written as files without types are.
            inside = _Walk(self._whole, implicit=True, little=True) if vr == b"UN" else self
            return inside._items(at, end, fragments=vr in (b"OB", b"OW"), delimited=True)
        if at + length > end:
            raise BrokenError
        if vr == b"SQ":
            self._items(at, at + length)
        return at + length

    def _head(self, tag: int, at: int) -> tuple[bytes, int, int]:
        """Type and length of an element, and where its value begins."""
        known = dictionary_VR(tag).encode() if dictionary_has_tag(tag) else b"UN"
        if self._implicit:
            return known, self._long.unpack_from(self._whole, at + 4)[0], at + 8
        vr = self._whole[at + 4 : at + 6]
        if vr not in VRS or (known == b"SQ" and vr not in (b"SQ", b"UN")):
            raise BrokenError
        if vr not in LONG:
            return vr, self._short.unpack_from(self._whole, at + 6)[0], at + 8
        if self._whole[at + 6 : at + 8] != b"\0\0":
            raise BrokenError
        return vr, self._long.unpack_from(self._whole, at + 8)[0], at + 12

    def _items(self, at: int, end: int, *, fragments: bool = False, delimited: bool = False) -> int:
        """Where the items of a sequence end."""
        while at < end:
            tag, (length,) = self._tag_at(at), self._long.unpack_from(self._whole, at + 4)
            at += 8
            if delimited and tag == SEQUENCE_END:
                return at
            if tag != ITEM:
                raise BrokenError
            if fragments:
                at += length
            elif length == UNDEFINED:
                at = self.elements(at, end, delimited=True)
            else:
                at = self.elements(at, min(at + length, end)) if at + length <= end else end + 1
        if delimited or at != end:
            raise BrokenError
        return at

    def _tag_at(self, at: int) -> int:
        group, element = self._tag.unpack_from(self._whole, at)
        return int(group << 16 | element)


def _is_known(tag: int) -> bool:
    """Whether DICOM, or a private group, may have an element of this tag."""
    group = tag >> 16
    return bool(group % 2 or tag & 0xFFFF == 0 or dictionary_has_tag(tag) or repeater_has_tag(tag))
