"""What the bytes of a file say, read without the pipeline's readers; test_fuzz_ingest.py compares with it.

NIfTI, MetaImage and NRRD are read by their standards with `struct` and regular expressions, DICOM with
pydicom and no check at all. Whatever cannot be read raises any exception.
"""

import gzip
import itertools
import math
import re
import struct
import warnings
import zlib

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian

NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
NIFTI_TYPES |= {1024: "i8", 1280: "u8"}
META_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"}
META_TYPES |= {
    "LONG": "i8",
    "ULONG": "u8",
    "LONG_LONG": "i8",
    "ULONG_LONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}
NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def nifti(path):
    """Voxels (I, J, K), or (I, J, K, channels), and affine of NIfTI-1."""
    header = whole = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    pair = path.suffix in (".hdr", ".img")
    if pair:
        header, whole = path.with_suffix(".hdr").read_bytes(), path.with_suffix(".img").read_bytes()
    order = "<" if 1 <= struct.unpack_from("<h", header, 40)[0] <= 7 else ">"

    def field(offset, form):
        return struct.unpack_from(order + form, header, offset)

    axes, *sizes = field(40, "8h")
    shape = list(sizes[:axes])
    shape = shape[:3] + [size for size in shape[3:] if size != 1]
    kind = np.dtype(NIFTI_TYPES[field(70, "h")[0]]).newbyteorder(order)
    (offset,) = field(108, "f")
    start = int(offset) if offset else (0 if pair else 352)
    count = math.prod(shape)
    assert len(whole) == start + count * kind.itemsize, "more or fewer bytes than voxels"
    array = np.frombuffer(whole, kind, count, start).reshape(shape, order="F").astype(np.float64)
    slope, intercept = field(112, "2f")
    if math.isfinite(slope) and slope != 0:
        array = array * slope + intercept
    assert header[123] & 7 in (0, 2), "not in millimetres"
    return array, _nifti_affine(field, shape)


def _nifti_affine(field, shape):
    pixdim, affine = np.array(field(76, "8f")), np.eye(4)
    if field(254, "h")[0] > 0:
        affine[:3] = np.reshape(field(280, "12f"), (3, 4))
        return affine
    spacing = np.abs(pixdim[1:4])
    if field(252, "h")[0] > 0:
        b, c, d = field(256, "3f")
        a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
            ]
        )
        affine[:3, :3] = rotation * spacing * (1, 1, -1 if pixdim[0] < 0 else 1)
        affine[:3, 3] = field(268, "3f")
        return affine
    # The standard does not say where such a volume lies: the middle is 0, i runs to the left.
    affine[:3, :3] = np.diag(spacing * (-1, 1, 1))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def metaimage(path):
    """Voxels (I, J, K) and affine of MetaImage."""
    whole = path.read_bytes()
    end = whole.index(b"\n", whole.index(b"ElementDataFile")) + 1
    fields = dict(re.findall(r"(\w+)\s*[=:]\s*(.*?)\s*\n", whole[:end].decode("latin-1")))
    name = fields["ElementDataFile"]
    data = whole[end:] if name.upper() == "LOCAL" else (path.parent / name).read_bytes()
    if fields.get("CompressedData", "False")[0] in "Tt1":
        data = _unzipped(data, 15)
    high = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))[0] in "Tt1"
    kind = np.dtype(META_TYPES[fields["ElementType"].removeprefix("MET_")]).newbyteorder(">" if high else "<")
    shape = [int(size) for size in fields["DimSize"].split()]
    skip = int(fields.get("HeaderSize", 0))
    array = _packed(data, kind, shape, skip).astype(np.float64)
    scale = (
        float(fields.get(f"ElementToIntensityFunction{name}", one))
        for name, one in (("Slope", 1), ("Offset", 0))
    )
    slope, intercept = scale
    affine = np.eye(4)
    n = len(shape)
    rotation = _of_any(fields, ("TransformMatrix", "Rotation", "Orientation"), n * n, np.eye(n).ravel())
    spacing = _of_any(fields, ("ElementSpacing", "ElementSize"), n, np.ones(n))
    affine[:3, :3] = rotation.reshape(n, n).T[:3, :3] * spacing[:3]
    affine[:3, 3] = _of_any(fields, ("Offset", "Position", "Origin"), n, np.zeros(n))[:3]
    return array * slope + intercept, LPS @ affine


def nrrd(path):
    """Voxels (I, J, K) and affine of NRRD."""
    whole = path.read_bytes()
    head = re.match(rb".*?\r?\n(\r?\n|\Z)|.*", whole, re.DOTALL)[0]
    found = re.findall(r"^([^#:\n]+): (.*?)\s*$", head.decode("latin-1"), re.MULTILINE)
    fields = {re.sub(r"\s", "", name).lower(): value for name, value in found}
    data = (path.parent / fields["datafile"]).read_bytes() if "datafile" in fields else whole[len(head) :]
    if fields["encoding"] != "raw":
        data = _unzipped(data, 31)
    kind = np.dtype(NRRD_TYPES[fields["type"]]).newbyteorder(">" if fields.get("endian") == "big" else "<")
    shape = [int(size) for size in fields["sizes"].split()]
    assert len(shape) == int(fields["dimension"])
    array = _packed(data, kind, shape, int(fields.get("byteskip", 0))).astype(np.float64)
    affine = np.eye(4)
    if "spacedirections" in fields:
        affine[:3, :3] = np.array(_vectors(fields["spacedirections"])).T
    elif "spacings" in fields:
        affine[:3, :3] = np.diag([float(number) for number in fields["spacings"].split()])
    if "spaceorigin" in fields:
        affine[:3, 3] = _vectors(fields["spaceorigin"])[0]
    space = fields.get("space", "lps").lower()
    signs = {"left": -1, "l": -1, "posterior": -1, "p": -1}
    words = space.split("-") if "-" in space else list(space)
    return array, np.diag([*(signs.get(word, 1) for word in words), 1]) @ affine


def _of_any(fields, names, count, otherwise):
    values = [fields[name] for name in names if name in fields]
    numbers = np.array([float(number) for number in values[-1].split()]) if values else otherwise
    assert len(numbers) == count
    return numbers


def _vectors(text):
    return [[float(number) for number in found.split(",")] for found in re.findall(r"\(([^)]*)\)", text)]


def _unzipped(data, window):
    stream = zlib.decompressobj(window)
    whole = stream.decompress(data)
    assert stream.eof
    return whole


def _packed(data, kind, shape, skip):
    assert skip == -1 or len(data) == skip + math.prod(shape) * kind.itemsize
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    count = math.prod(shape)
    start = len(data) - count * kind.itemsize if skip == -1 else skip
    return np.frombuffer(data, kind, count, start).reshape(shape, order="F")


def dicom(*paths):
    """Voxels (column, row, slice) and affine of slices, or of an enhanced object."""
    planes = sorted(itertools.chain.from_iterable(map(_planes, paths)), key=lambda plane: plane[0])
    # What is there twice, pixel for pixel, is there once.
    once = [plane for k, plane in enumerate(planes) if k == 0 or plane[0] - planes[k - 1][0] >= 1e-3]
    assert all(
        np.array_equal(plane[1], other[1])
        for plane, other in itertools.pairwise(planes)
        if other[0] - plane[0] < 1e-3
    )
    first = once[0][2]
    step = (once[-1][0] - once[0][0]) / (len(once) - 1)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([first[:, 1], first[:, 2], np.cross(first[:, 3], first[:, 4]) * step], axis=1)
    affine[:3, 3] = first[:, 0]
    return np.stack([values for _, values, _ in once], axis=-1), LPS @ affine


def _planes(path):
    """Depth, values (column, row), and position, steps and directions of each slice in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pixels = np.asarray(dataset.pixel_array, np.float64)
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or [pydicom.Dataset()]
    padding = _padding(dataset)
    for frame, stored in zip(frames, pixels.reshape(-1, *pixels.shape[-2:]), strict=True):

        def value(group, keyword, otherwise=None, frame=frame):
            for holder in (frame, shared[0], dataset):
                inner = holder[group][0] if holder.get(group) else holder
                if inner.get(keyword) not in (None, ""):
                    return inner.get(keyword)
            return otherwise

        position = np.array(value("PlanePositionSequence", "ImagePositionPatient"), float)
        along, down = np.reshape(
            [float(n) for n in value("PlaneOrientationSequence", "ImageOrientationPatient")], (2, 3)
        )
        along, down = along / np.linalg.norm(along), down / np.linalg.norm(down)
        rows, columns = (float(n) for n in value("PixelMeasuresSequence", "PixelSpacing"))
        transformation = "PixelValueTransformationSequence"
        slope = float(value(transformation, "RescaleSlope", 1))
        intercept = float(value(transformation, "RescaleIntercept", 0))
        if padding is not None:
            stored = np.where((stored >= min(padding)) & (stored <= max(padding)), padding[0], stored)
        placed = np.stack([position, along * columns, down * rows, along, down], axis=1)
        yield float(position @ np.cross(along, down)), stored.T * slope + intercept, placed


def _padding(dataset):
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    return None if value is None else (value, value if limit is None else limit)


def segments(path, shape, position, step):
    """Label values (column, row, slice) of a binary SEG whose frames lie on the slices of an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        frames = dataset.pixel_array.reshape(-1, shape[1], shape[0])
    array = np.zeros(shape, np.uint8)
    names = {int(item.SegmentNumber): item.SegmentLabel for item in dataset.SegmentSequence}
    for pixels, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        k = round((float(groups.PlanePositionSequence[0].ImagePositionPatient[2]) - position) / step)
        name = names[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        value = {"near": 1, "far": 2}.get(name, 0)
        if value:
            array[:, :, k][pixels.T > 0] = value
    return array


def regions(path):
    """The names of the regions of interest that an RTSTRUCT holds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        return {str(item.get("ROIName", "")).strip() for item in dataset.StructureSetROISequence}
