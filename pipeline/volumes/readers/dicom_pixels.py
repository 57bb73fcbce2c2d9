"""The pixels of a DICOM file: decoded, checked against the header, scaled."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
)

from pipeline.errors import DataError
from pipeline.volumes.readers.dicom_files import COLOUR, kind_of, open_dataset, reading
from pipeline.volumes.readers.dicom_planes import Plane

Stored = NDArray[np.integer[Any]]
LUMINANCE = np.array([2125.0, 7154.0, 721.0])
"""Of red, green and blue, in 10,000 parts (ITU-R BT.709), as ITK turns colour into grey."""

GREYS = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
JPEG = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)
# GDCM ends the process where damage breaks one of its assertions. It decodes what no other library
# here can, and of that only what begins as JPEG does.
DECODERS = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, *JPEG2000TransferSyntaxes), "pillow"),
    **dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls"),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), "gdcm"),
}
"""Of pydicom's, by transfer syntax."""
JPEG_START = b"\xff\xd8\xff"


def check_grey(name: str, dataset: Dataset) -> None:
    """Refuse what is not one number a pixel.

    Raises:
        DataError: its photometric interpretation, or what it says of its bits, cannot be meant.
    """
    with reading(name):
        meaning = str(dataset.get("PhotometricInterpretation") or "none")
        samples = int(dataset.get("SamplesPerPixel") or 1)
        allocated, stored = int(dataset.get("BitsAllocated") or 0), int(dataset.get("BitsStored") or 0)
        high = int(dataset.get("HighBit") or stored - 1)
        colour = kind_of(dataset) == COLOUR
    known = meaning in (COLOURS if colour else GREYS)
    if not known or samples != (3 if colour else 1):
        raise DataError(
            f"{name} has {samples} samples a pixel and {_told(meaning)}, which is no grey image",
            "give the series the scanner made",
        )
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1:
        raise DataError(
            f"{name}: {stored} of {allocated} bits stored, the highest at {high}, cannot be read",
            "export it again",
        )


def _told(meaning: str) -> str:
    """A photometric interpretation; of a damaged header, any text may stand in its place."""
    known = meaning in (*GREYS, *COLOURS, "PALETTE COLOR", "none")
    return f"the photometric interpretation {meaning}" if known else "an unknown photometric interpretation"


def check_syntax(name: str, syntax: UID) -> None:
    """Refuse what no decoder here reads, such as High-Throughput JPEG 2000, MPEG or a maker's own syntax.

    Raises:
        DataError: pixels are stored so.
    """
    try:
        known: bool = get_decoder(syntax).is_available
    except NotImplementedError:
        known = False
    if not known:
        # Of a damaged header, any text may stand in its place.
        told = f"the transfer syntax {syntax.name}" if syntax.name != syntax else "an unknown transfer syntax"
        raise DataError(
            f"{name} stores its pixels in {told}, which is not read",
            "export it without compression, or in JPEG 2000, JPEG-LS or RLE",
        )


def stored_values(path: Path, name: str) -> Stored:
    """The numbers a file stores, before any scaling: (frames, rows, columns[, samples]).

    Raises:
        DataError: there are none, fewer than the header claims, or they cannot be decoded.
    """
    with reading(name, "decoding"):
        dataset = open_dataset(path, pixels=True)
        if not dataset.get("PixelData"):
            raise DataError(f"{name} holds no pixels", "fetch it again, or leave it out")
        shape = _shape(dataset)
        syntax = dataset.file_meta.TransferSyntaxUID
        check_syntax(name, syntax)
        _check_length(name, dataset, shape)
        if syntax in JPEG and JPEG_START not in dataset.PixelData:
            raise DataError(f"{name}: its pixels are said to be JPEG and are not", "fetch it again")
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            return _by_gdcm(path, shape)
        return np.asarray(pixel_array(dataset, decoding_plugin=DECODERS.get(syntax, ""))).reshape(shape)


def scaled(plane: Plane, stored: Stored) -> NDArray[np.float64]:
    """The values (rows, columns) of one slice of a file's `stored_values`: colour as luminance."""
    values = stored[plane.frame]
    if values.ndim == 3:
        # Grey that is stored as colour keeps its numbers to the last bit.
        values = values[..., 0] if is_grey(values) else values @ LUMINANCE / 10_000
    result: NDArray[np.float64] = values.astype(np.float64) * plane.slope + plane.intercept
    return result


def is_grey(colours: Stored) -> bool:
    """Whether all channels (the last axis) are the same everywhere."""
    return bool((colours == colours[..., :1]).all())


def _shape(dataset: Dataset) -> tuple[int, ...]:
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    return (frames, int(dataset.Rows), int(dataset.Columns)) + ((samples,) if samples > 1 else ())


def _check_length(name: str, dataset: Dataset, shape: tuple[int, ...]) -> None:
    """Compressed pixels are as long as they are; the decoder counts those."""
    packed = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    if packed != dataset["PixelData"].is_undefined_length:
        raise DataError(f"{name} says wrongly whether its pixels are compressed", "fetch it again")
    if packed:
        return
    pixels = int(np.prod(shape, dtype=object))
    if str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422":
        pixels = pixels * 2 // 3
    claimed, there = pixels * int(dataset.BitsAllocated) // 8, len(dataset.PixelData)
    if there < claimed:
        raise DataError(f"{name} holds {there} of the {claimed} bytes of pixels it claims", "fetch it again")
    # Some programs fill up to a block of the disk; anything else is pixels that the header leaves out.
    if any(dataset.PixelData[claimed:]):
        raise DataError(f"{name} holds {there} bytes of pixels and claims {claimed}", "fetch it again")


def _by_gdcm(path: Path, shape: tuple[int, ...]) -> Stored:
    """JPEG of 12 bits, which pydicom gives to no decoder that is here."""
    import gdcm

    for silenced in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        silenced()
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        raise ValueError
    image = reader.GetImage()
    signed = bool(image.GetPixelFormat().GetPixelRepresentation())
    # GDCM gives bytes as a str.
    content = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(content, np.int16 if signed else np.uint16).reshape(shape)
