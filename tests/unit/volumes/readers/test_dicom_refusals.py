"""Series that are no sound volume: each is refused with its own reason, and nothing crashes."""

import random
import re

import numpy as np
import psutil
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import MPEG2MPML, UID, HTJ2KLossless, JPEG2000Lossless, JPEGLSLossless, RLELossless

from pipeline.errors import DataError
from pipeline.volumes.readers import read_geometry, read_scan

TILT = np.deg2rad(12)
HEADER_ONLY = [
    ({"RescaleIntercept": None}, "gives a rescale slope and no intercept"),
    ({"RescaleSlope": None}, "gives a rescale intercept and no slope"),
    ({"ImagePositionPatient": None}, "gives no position"),
    ({"ImageOrientationPatient": None}, "gives no orientation"),
    ({"PixelSpacing": None}, "gives no spacing"),
    ({"PixelSpacing": [0.0, 1.5]}, "its pixel spacing is 0 by 1.5 mm"),
    ({"PixelSpacing": [2.0, -1.5]}, "its pixel spacing is 2 by -1.5 mm"),
    ({"PixelSpacing": [float("nan"), 1.5]}, "PixelSpacing is not 2 finite numbers"),
    ({"PixelSpacing": [2.0]}, "is damaged"),
    ({"ImagePositionPatient": [1.0, 2.0]}, "ImagePositionPatient is not 3 finite numbers"),
    ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.8, 0]}, "not at a right angle"),
    ({"ImageOrientationPatient": [0] * 6}, "not at a right angle, or not of length 1"),
    ({"RescaleSlope": 0.0}, "its rescale slope is 0"),
    ({"RescaleSlope": float("inf")}, "RescaleSlope is not 1 finite numbers"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "1 samples a pixel and the .* PALETTE COLOR"),
    ({"PhotometricInterpretation": None}, "photometric interpretation none"),
    ({"SamplesPerPixel": 2}, "2 samples a pixel"),
    ({"BitsStored": 12}, "12 of 16 bits stored, the highest at 15"),
    ({"BitsAllocated": 12}, "16 of 12 bits stored"),
    ({"Rows": 0}, "20 columns and 0 rows"),
    ({"Columns": None}, "0 columns and 24 rows"),
    ({"NumberOfFrames": 3}, "holds 3 frames and no position for each"),
    ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "its kind is scout image"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}, "its kind is secondary capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, "its kind is structured report"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, "its kind is presentation state"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "its kind is encapsulated document"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "its kind is RTSTRUCT"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, "its kind is PET image"),
    ({"SOPClassUID": "1.2.3.4"}, "its kind is other object"),
    ({"Rows": 65000, "Columns": 65000}, "its header claims .* GiB"),
]
PIXELS_TOO = [
    ({"PixelData": None}, "holds no pixels"),
    ({"PixelData": b""}, "holds no pixels"),
    ({"PixelData": b"\0" * 958}, "holds 958 of the 960 bytes of pixels it claims"),
    ({"Rows": 25}, "holds 960 of the 1000 bytes of pixels it claims"),
]
SERIES = [
    (2, lambda k: {}, "2 slices, a volume has at least 3"),
    (1, lambda k: {}, "1 slice, a volume has at least 3"),
    (4, lambda k: {"ImagePositionPatient": [1, 2, 3]}, "all 4 slices lie at one position"),
    (4, lambda k: {"ImagePositionPatient": [10 * k, 2, 3]}, "all 4 slices lie at one position"),
    (
        4,
        lambda k: {"ImagePositionPatient": [1, 2, (0, 5, 10, 20)[k]]},
        r"1 slice is missing between 10\.0 and 20\.0 mm along their normal \(they usually lie 5 mm apart\)",
    ),
    (
        5,
        lambda k: {"ImagePositionPatient": [1, 2, (0, 5, 20, 25, 35)[k]]},
        r"3 slices are missing between 5\.0 and 20\.0 mm, 25\.0 and 35\.0 mm",
    ),
    (3, lambda k: {"ImagePositionPatient": [1, 2, (0, 5, 15)[k]]}, "1 slice is missing between 5.0 and 15.0"),
    (
        4,
        lambda k: {"ImagePositionPatient": [1, 2, (0, 5, 10, 17)[k]]},
        "its slices lie 5 to 7 mm apart, not evenly",
    ),
    (
        4,
        lambda k: {"ImagePositionPatient": [1, 2, (0, 0.01, 5, 10)[k]]},
        "its slices lie 0.01 to 5 mm apart, not evenly",
    ),
    (
        4,
        lambda k: {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0] if k else [0, 1, 0, 0, 0, -1]},
        "its slices have 2 orientations",
    ),
    (
        4,
        lambda k: {
            "ImagePositionPatient": [1, 2 - 5 * k * np.sin(TILT).round(12), 5 * k * np.cos(TILT).round(12)]
        },
        r"tilted by 12\.0 degrees .*gantry tilt",
    ),
    (
        4,
        lambda k: {"ImagePositionPatient": [1, -(0, 1, 2, 4)[k], 5 * (0, 1, 2, 4)[k]]},
        "1 slice is missing between 10.0 and 20.0 mm",
    ),
    (
        5,
        lambda k: {"ImagePositionPatient": [4.0 * (k == 2), 2, 5 * k]},
        "shifted against each other by up to 4.0 mm",
    ),
    (
        4,
        lambda k: {"pixels": np.zeros((24, 20 + 2 * (k == 1)), np.int16)},
        r"several sizes \(20 x 24, 22 x 24\)",
    ),
    (
        4,
        lambda k: {"PixelSpacing": [2, 1.5 + (k == 1)]},
        r"several pixel spacings \(1.5 x 2 mm, 2.5 x 2 mm\)",
    ),
    (
        6,
        lambda k: {"ImagePositionPatient": [1, 2, 5 * (k // 2)]},
        "6 slices lie at 3 positions, with different pixels at one: several phases",
    ),
    (
        4,
        lambda k: {"RescaleSlope": None, "RescaleIntercept": None} if k == 2 else {},
        "3 of its 4 slices have a rescale slope and the others none",
    ),
    (4, lambda k: {"SeriesInstanceUID": f"1.2.{k // 2}"}, "its files belong to 2 series"),
    (4, lambda k: {"FrameOfReferenceUID": f"1.2.{k // 2}"}, "its files belong to 2 frames of reference"),
]


def refusal(function, *paths):
    with pytest.raises(DataError) as caught:
        function(*paths)
    assert caught.value.reason.startswith(paths[0].name)
    assert caught.value.remedy
    return caught.value.reason


@pytest.mark.parametrize("function", [read_scan, read_geometry])
@pytest.mark.parametrize(("elements", "reason"), HEADER_ONLY, ids=[reason for _, reason in HEADER_ONLY])
def test_what_a_header_cannot_mean_is_refused(tmp_path, dicom, function, elements, reason):
    paths = dicom.write_series(tmp_path, **elements)
    assert re.search(reason, refusal(function, *paths))


@pytest.mark.parametrize(("elements", "reason"), PIXELS_TOO, ids=[reason for _, reason in PIXELS_TOO])
def test_missing_pixels_are_refused(tmp_path, dicom, elements, reason):
    assert re.search(reason, refusal(read_scan, *dicom.write_series(tmp_path, **elements)))


@pytest.mark.parametrize("function", [read_scan, read_geometry])
@pytest.mark.parametrize(("count", "each", "reason"), SERIES, ids=[reason for *_, reason in SERIES])
def test_slices_that_are_no_regular_volume_are_refused(tmp_path, dicom, function, count, each, reason):
    paths = dicom.write_series(tmp_path, count, each)
    random.Random(0).shuffle(paths)
    assert re.search(reason, refusal(function, *paths))


def test_more_pixels_than_the_header_claims_are_refused_unless_they_are_zeros(tmp_path, dicom):
    path = dicom.save(dicom.enhanced(), tmp_path / "e.dcm")
    dataset = pydicom.dcmread(path)
    pixels = dataset.PixelData
    dataset.PixelData = pixels + bytes(512)
    dataset.save_as(path)
    assert read_scan(path).array.shape[:2] == (20, 24)
    dataset.Rows = 12
    dataset.save_as(path)
    assert "bytes of pixels and claims" in refusal(read_scan, path)


def test_pixels_that_are_compressed_and_said_not_to_be_are_refused(tmp_path, dicom):
    paths = dicom.write_series(tmp_path)
    dataset = pydicom.dcmread(paths[0])
    dataset.compress(RLELossless)
    dataset.save_as(paths[0])
    whole = paths[0].read_bytes()
    paths[0].write_bytes(whole.replace(RLELossless.encode(), b"1.2.840.10008.1.2.1"))
    assert "says wrongly whether its pixels are compressed" in refusal(read_scan, *paths)


def test_two_copies_of_two_slices_are_two_slices(tmp_path, dicom):
    paths = dicom.write_series(tmp_path / "a", 2) + dicom.write_series(tmp_path / "b", 2)
    assert "2 slices, a volume" in refusal(read_scan, *paths)


def test_memory_is_asked_for_before_anything_is_decoded(tmp_path, dicom, monkeypatch):
    paths = dicom.write_series(tmp_path)
    available = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    assert "its header claims (20, 24, 4) voxels" in refusal(read_scan, *paths)


def test_a_table_of_values_is_refused(tmp_path, dicom):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [2, 0, 16], bytes(4)
    paths = dicom.write_series(tmp_path, ModalityLUTSequence=Sequence([table]))
    assert "Modality LUT" in refusal(read_scan, *paths)


def test_an_enhanced_object_has_to_describe_each_frame(tmp_path, dicom):
    dataset = dicom.enhanced()
    dataset.NumberOfFrames = 4_000_000
    path = dicom.save(dataset, tmp_path / "e.dcm")
    assert "claims 4000000 frames and describes 4" in refusal(read_scan, path)


def test_phases_in_one_enhanced_object_are_refused(tmp_path, dicom):
    dataset = dicom.enhanced(count=6)
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, k // 2]
    assert "several phases" in refusal(read_scan, dicom.save(dataset, tmp_path / "e.dcm"))


@pytest.mark.parametrize("content", [b"", b"no", b"\x08\x00\x05", b"\0" * 128 + b"DICM", b"x" * 4000])
def test_a_file_that_is_no_dicom_is_refused(tmp_path, content):
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    refusal(read_scan, path)


def test_a_missing_file_is_refused(tmp_path):
    assert "no DICOM file" in refusal(read_scan, tmp_path / "x.dcm")


def test_an_object_without_preamble_and_class_is_refused(tmp_path, dicom):
    path = dicom.save_without_preamble(dicom.dataset_of(SOPClassUID=None), tmp_path / "x.dcm")
    assert "no SOP class" in refusal(read_scan, path)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEGLSLossless])
def test_files_cut_anywhere_are_refused(tmp_path, dicom, syntax):
    paths = dicom.write_series(tmp_path)
    if syntax:
        dataset = pydicom.dcmread(paths[1])
        dataset.compress(syntax)
        dataset.save_as(paths[1])
    whole = paths[1].read_bytes()
    for length in range(0, len(whole) - 8, 97):
        paths[1].write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_scan(*paths)


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_altered_bytes_never_crash(tmp_path, dicom, syntax):
    paths = dicom.write_series(tmp_path)
    if syntax:
        dataset = pydicom.dcmread(paths[1])
        dataset.compress(syntax)
        dataset.save_as(paths[1])
    whole = paths[1].read_bytes()
    generator = random.Random(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        paths[1].write_bytes(damaged)
        try:
            read_scan(*paths)
        except DataError:
            refused += 1
    assert refused > 8


@pytest.mark.parametrize(
    ("syntax", "told"),
    [
        (HTJ2KLossless, r"the transfer syntax High-Throughput JPEG 2000 .*"),
        (MPEG2MPML, r"the transfer syntax MPEG2 .*"),
        (UID("1.2.840.113619.5.2"), "an unknown transfer syntax"),
    ],
)
def test_pixels_that_nothing_here_decodes_are_not_called_damaged(tmp_path, dicom, syntax, told):
    paths = dicom.write_series(tmp_path)
    dataset = pydicom.dcmread(paths[2])
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(paths[2], implicit_vr=False, little_endian=True)
    with pytest.raises(DataError, match=rf"^slice2\.dcm stores its pixels in {told}, which is not read"):
        read_scan(*paths)


def test_a_decoder_that_fails_is_a_refusal(tmp_path, dicom):
    paths = dicom.write_series(tmp_path)
    dataset = pydicom.dcmread(paths[2])
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no image" * 9])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.save_as(paths[2])
    with pytest.raises(DataError, match=r"^slice2\.dcm is damaged \(\w+ on decoding it\)"):
        read_scan(*paths)


def test_values_that_break_the_rules_of_dicom_are_no_reason(tmp_path, dicom):
    odd = {"Manufacturer": "A" * 200, "PatientBirthDate": "last spring", "InstanceNumber": None}
    scan = read_scan(*dicom.write_series(tmp_path, StudyDate="yesterday", Modality="CT", **odd))
    assert np.array_equal(scan.array, dicom.expected())
    assert len(scan.origin.scanner) < 100


SECRETS = {
    "PatientName": "Quixotic^Zebulon",
    "PatientID": "ID-776-ZZ",
    "PatientBirthDate": "19310713",
    "InstitutionName": "Saint Nowhere",
    "StudyDescription": "Pelvis of Quixotic",
    "SeriesDescription": "Zebulon again",
    "AccessionNumber": "ACC4711",
    "DeviceSerialNumber": "SER1234",
    "StationName": "ROOM17",
    "ReferringPhysicianName": "Strange^Love",
}


def says(text):
    text = str(text)
    return [secret for secret in SECRETS.values() for part in secret.split("^") if part in text]


def test_nothing_of_a_person_is_in_a_scan(tmp_path, dicom):
    dataset = dicom.dataset_of(0, **SECRETS)
    dataset.private_block(0x0099, "Quixotic", create=True).add_new(1, "LO", "Zebulon")
    paths = [
        dicom.save(dataset, tmp_path / "0.dcm"),
        *(dicom.save(dicom.dataset_of(k, **SECRETS), tmp_path / f"{k}.dcm") for k in (1, 2)),
    ]
    scan = read_scan(*paths)
    assert not says((scan.origin, scan.geometry))


@pytest.mark.parametrize("elements", [elements for elements, _ in HEADER_ONLY + PIXELS_TOO])
def test_nothing_of_a_person_is_in_a_refusal(tmp_path, dicom, elements):
    paths = dicom.write_series(tmp_path, **(SECRETS | elements))
    assert not says(refusal(read_scan, *paths))


def test_a_value_that_cannot_be_read_is_not_told(tmp_path, dicom):
    paths = dicom.write_series(tmp_path)
    whole = paths[0].read_bytes().replace(b"30.0", b"Doe ")
    paths[0].write_bytes(whole)
    assert "Doe" not in refusal(read_scan, *paths)


def test_nothing_of_a_person_is_logged(tmp_path, dicom, caplog, capfd):
    odd = {"SpecificCharacterSet": "Zebulon", "StudyDate": "Zebulon", "SeriesInstanceUID": "Zebulon"}
    paths = dicom.write_series(tmp_path, **(SECRETS | odd))
    caplog.clear()
    read_scan(*paths)
    said = capfd.readouterr()
    assert not says(caplog.text + said.out + said.err)


@pytest.mark.parametrize("content", [b"", b"\0" * 128 + b"DICM" + b"\xff" * 99])
def test_a_damaged_file_beside_others_of_the_patient_is_not_named(tmp_path, dicom, content):
    paths = [path.rename(tmp_path / f"doe-{path.name}") for path in dicom.write_series(tmp_path)]
    paths[1].write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_scan(*paths)
    assert caught.value.reason.startswith("a DICOM file ")
    assert "doe-" not in str(caught.value)


def test_a_file_that_is_called_after_the_patient_is_not_named(tmp_path, dicom):
    paths = [dicom.save(dicom.dataset_of(k, **SECRETS), tmp_path / f"quixotic_{k}.dcm") for k in (0, 1, 3, 9)]
    with pytest.raises(DataError, match=r"^a DICOM series of 4 files: ") as caught:
        read_scan(*paths)
    assert "quixotic" not in str(caught.value)
    dicom.save(dicom.dataset_of(0, **(SECRETS | {"PixelSpacing": None})), paths[0])
    with pytest.raises(DataError, match=r"^a DICOM file gives no spacing"):
        read_scan(*paths)
