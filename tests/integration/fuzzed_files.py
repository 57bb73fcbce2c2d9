"""Sound files of every format that is read, and ways to damage them; test_fuzz_ingest.py uses it.

A kind is a folder with one volume in it, or with a volume and the masks that were drawn on it. What is
damaged is one of its files, by a generator: the same seed gives the same bytes.
"""

import gzip
import random
import re
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.pixels import pack_bits
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

sys.path.append(str(Path(__file__).parents[1] / "unit" / "volumes"))
import dicom_by_code as by_code

SHAPE = (11, 9, 7)
ANGLE = 0.3
AFFINE = np.array(
    [
        [-1.5 * np.cos(ANGLE), -1.25 * np.sin(ANGLE), 0, 12.5],
        [1.5 * np.sin(ANGLE), -1.25 * np.cos(ANGLE), 0, -7.25],
        [0, 0, 2.5, 100],
        [0, 0, 0, 1],
    ]
)
SLICES = 4
HEADER = {".nii": 352, ".hdr": 348, ".mha": 330, ".mhd": 400, ".nrrd": 330, ".nhdr": 400, ".dcm": 900}
"""Bytes, about, that a header has: half of all damage is done to it."""
SYNTAXES = {
    "dicom_implicit": ImplicitVRLittleEndian,
    "dicom_big_endian": ExplicitVRBigEndian,
    "dicom_rle": RLELossless,
    "dicom_jpeg_ls": JPEGLSLossless,
}
BY_GDCM = {"dicom_jpeg": "JPEGLosslessProcess14_1", "dicom_jpeg_2000": "JPEG2000Lossless"}
SERIES = ("dicom", *SYNTAXES, *BY_GDCM)
MASKS = ("rtstruct", "seg")
KINDS = (
    *("nifti", "nifti_qform", "nifti_scaled", "nifti_pair", "nifti_packed", "nifti_repacked", "nifti_labels"),
    "nifti_channels",
    *("metaimage", "metaimage_packed", "metaimage_pair", "nrrd", "nrrd_packed", "nrrd_pair"),
    *(*SERIES, "dicom_enhanced", *MASKS),
)
NUMBERS = [
    struct.pack(order + form, value)
    for order in "<>"
    for form, values in {
        "b": (0, 1, -1, 127),
        "h": (0, 1, -1, 2, 4, 8, 16, 64, 256, 512, 30_000, -32_768),
        "i": (0, 1, -1, 540, 348, 2**31 - 1, -(2**31)),
        "q": (0, -1, 2**62),
        "f": (0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 352.0, 1e6, -16.0),
    }.items()
    for value in values
]
"""What a number in a binary header may become."""
WORDS = (
    *(b"0", b"-1", b"1", b"2", b"3", b"30000", b"1e308", b"-1e308", b"nan", b"inf", b"1e-300", b""),
    *(b"9" * 40, b"1.5", b"../x", b"x" * 300, b"\0", b"\n", b"= 3", b"LOCAL", b"uint8", b"MET_UCHAR"),
)
"""What a number or a word in a text header may become."""


def voxels():
    return np.random.default_rng(0).integers(-1000, 2000, SHAPE).astype(np.int16)


def label_map():
    """Label values 1 and 2 (I, J, K)."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:7, 2:6, 1:6] = 1
    labels[7:9, 2:6, 1:6] = 2
    return labels


def make(kind, folder):
    """Write the files of a kind, the one to open first."""
    folder.mkdir()
    if kind.startswith("nifti"):
        _nifti(kind, folder)
    elif kind.startswith(("metaimage", "nrrd")):
        _itk(kind, folder)
    else:
        _dicom(kind, folder)


def _nifti(kind, folder):
    array = label_map() if kind == "nifti_labels" else voxels()
    if kind == "nifti_channels":
        array = np.stack([array, array[::-1], array // 2], axis=-1)
    image = (nibabel.Nifti1Pair if kind == "nifti_pair" else nibabel.Nifti1Image)(array, AFFINE)
    image.set_sform(AFFINE, code=0 if kind == "nifti_qform" else 1)
    image.set_qform(AFFINE, code=0 if kind == "nifti_scaled" else 1)
    image.header.set_xyzt_units("mm")
    if kind == "nifti_scaled":
        image.header.set_slope_inter(2.0, -24.0)
    name = {
        "nifti_pair": "scan.img",
        "nifti_packed": "scan.nii.gz",
        "nifti_repacked": "scan.nii.gz",
        "nifti_labels": "label.nii.gz",
    }.get(kind, "scan.nii")
    nibabel.save(image, folder / name)


def _itk(kind, folder):
    image = sitk.GetImageFromArray(voxels().transpose(2, 1, 0))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    meta = kind.startswith("metaimage")
    suffix = {(True, True): ".mhd", (True, False): ".mha", (False, True): ".nhdr", (False, False): ".nrrd"}
    path = folder / f"scan{suffix[meta, kind.endswith('pair')]}"
    sitk.WriteImage(image, str(path), useCompression=kind.endswith("packed"))


def _dicom(kind, folder):
    if kind == "dicom_enhanced":
        by_code.save(by_code.enhanced(SLICES, SOPInstanceUID="1.2.3.4.9"), folder / "slices.dcm")
        return
    syntax = SYNTAXES.get(kind)
    native = syntax if syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian) else None
    paths = by_code.write_series(
        folder, SLICES, lambda k: {"SOPInstanceUID": f"1.2.3.4.{k}"}, **({"syntax": native} if native else {})
    )
    for path in paths:
        if kind in BY_GDCM:
            # GDCM adds times and identifiers of its own: its pixels are taken alone.
            dataset = pydicom.dcmread(path)
            packed = pydicom.dcmread(by_code.compressed(path, BY_GDCM[kind]))
            dataset.PixelData = packed.PixelData
            dataset["PixelData"].VR = "OB"
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
            dataset.save_as(path)
        elif syntax is not None and native is None:
            dataset = pydicom.dcmread(path)
            dataset.compress(syntax, generate_instance_uid=False)
            dataset.save_as(path)
    if kind in MASKS:
        masks = _contours() if kind == "rtstruct" else _segments()
        # Random numbers would make the same seed another damage.
        masks.SeriesInstanceUID = masks.SOPInstanceUID = "1.2.3.4.9"
        masks.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.9"
        by_code.save(masks, folder / "masks.dcm")


def _contours():
    """Two organs, each a box on three slices; on the middle slice the first has a hole."""
    dataset = by_code.drawn()
    dataset.StructureSetROISequence = Sequence()
    dataset.ROIContourSequence = Sequence()
    for number, (name, left) in enumerate({"near": 14.0, "far": 26.0}.items(), start=1):
        contours = [_box(left, 24.0, 9.0, 20.0, k) for k in (0, 1, 2)]
        contours += [_box(left + 3, 30.0, 3.0, 6.0, 1)] if number == 1 else []
        dataset.StructureSetROISequence.append(by_code._item(ROINumber=number, ROIName=name))
        item = by_code._item(ContourSequence=Sequence(contours), ReferencedROINumber=number)
        dataset.ROIContourSequence.append(item)
    return dataset


def _box(x, y, width, height, k):
    """A contour in millimetres (LPS) on slice k."""
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    data = [float(number) for a, b in corners for number in (a, b, 30.0 + by_code.STEP * k)]
    return by_code._item(
        ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(corners), ContourData=data
    )


def _segments():
    """Two organs, each a box of bits on three slices."""
    dataset = by_code.drawn("SEG")
    frames, groups = [], []
    for number in (1, 2):
        for k in (0, 1, 2):
            frame = np.zeros((by_code.ROWS, by_code.COLUMNS), np.uint8)
            frame[3 + k : 12, 2 + 8 * (number - 1) : 7 + 8 * (number - 1)] = 1
            frames.append(frame)
            position = by_code._item(ImagePositionPatient=[10.0, 20.0, 30.0 + by_code.STEP * k])
            segment = by_code._item(ReferencedSegmentNumber=number)
            groups.append(
                by_code._item(
                    PlanePositionSequence=Sequence([position]),
                    SegmentIdentificationSequence=Sequence([segment]),
                )
            )
    measures = by_code._item(PixelSpacing=[2.0, 1.5], SpacingBetweenSlices=by_code.STEP)
    orientation = by_code._item(ImageOrientationPatient=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    shared = by_code._item(
        PixelMeasuresSequence=Sequence([measures]), PlaneOrientationSequence=Sequence([orientation])
    )
    segments = [
        by_code._item(SegmentNumber=number, SegmentLabel=name)
        for number, name in enumerate(("near", "far"), start=1)
    ]
    for keyword, value in {
        "SegmentationType": "BINARY",
        "SegmentSequence": Sequence(segments),
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(groups),
        "NumberOfFrames": len(frames),
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "PixelData": pack_bits(np.concatenate([frame.ravel() for frame in frames])),
    }.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OB"
    return dataset


def victim(kind, folder, generator):
    """The file of a kind that is damaged."""
    if kind in MASKS:
        return folder / "masks.dcm"
    return generator.choice(sorted(folder.iterdir()))


def damage(kind, path, generator):
    """Damage a file in place; returns what was done, in words."""
    packed = kind in ("nifti_repacked", "nifti_labels")
    whole = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    header = min(HEADER.get(path.suffix, 352 if packed else 0), len(whole))
    ways = [flip, flip, cut, grow, insert, remove]
    ways += [overwrite, overwrite] if header else []
    ways += [reword, reword] if path.suffix in (".mha", ".mhd", ".nrrd", ".nhdr") else []
    way = generator.choice(ways)
    done = way(whole, header if header and generator.random() < 0.6 else len(whole), generator)
    path.write_bytes(gzip.compress(bytes(whole), mtime=0) if packed else whole)
    return f"{path.name}: {way.__name__} {done}"


def flip(whole, end, generator):
    places = [(generator.randrange(end), generator.randrange(8)) for _ in range(generator.choice((1, 1, 3)))]
    for place, bit in places:
        whole[place] ^= 1 << bit
    return places


def cut(whole, end, generator):
    length = generator.randrange(end)
    del whole[length:]
    return length


def grow(whole, _end, generator):
    count = generator.choice((1, 2, 16, 512, 5000))
    whole += generator.choice((bytes(count), generator.randbytes(count), bytes(whole[-count:])))
    return count


def insert(whole, end, generator):
    place, count = generator.randrange(end), generator.choice((1, 2, 4, 64))
    whole[place:place] = generator.choice((bytes(count), generator.randbytes(count)))
    return place, count


def remove(whole, end, generator):
    place, count = generator.randrange(end), generator.choice((1, 2, 4, 64))
    del whole[place : place + count]
    return place, count


def overwrite(whole, end, generator):
    value = generator.choice(NUMBERS)
    place = generator.randrange(max(1, end - len(value))) // len(value) * len(value)
    whole[place : place + len(value)] = value
    return place, value


def reword(whole, _end, generator):
    """Another word in a header of text."""
    text = re.match(rb"[\x00-\x7f]*?(\n\n|ElementDataFile[^\n]*\n)", bytes(whole))
    words = list(re.finditer(rb"[^\s,()=:]+", text[0] if text else bytes(whole[:300])))
    word, value = generator.choice(words), generator.choice(WORDS)
    whole[word.start() : word.end()] = value
    return word.start(), value


def generator_of(kind, seed):
    return random.Random(f"{kind} {seed}")
