"""Nothing that identifies a person gets from the scans into what a run writes, says or remembers."""

import base64
import importlib.util
import json
import re
import sqlite3
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from pipeline.errors import DataError
from pipeline.params import IngestParams, ValidateParams
from pipeline.stages import ingest, validate

ROOT = Path(__file__).parents[2]
PLANTED = {
    "PatientName": "Quetzalstein^Hildegund",
    "PatientID": "PID77Q4Z81",
    "PatientBirthDate": "19371113",
    "OtherPatientNames": "Wuppdikowsky^Hildegund",
    "AccessionNumber": "ACC5512Z9",
    "InstitutionName": "Klinikum Zyxenfeld",
    "InstitutionAddress": "Gnomenweg 17",
    "ReferringPhysicianName": "Drubbelwitz^Ottokar",
    "OperatorsName": "Schnorchelmann^Pia",
    "StudyDescription": "Xylophonstaging",
    "SeriesDescription": "Zwiebelserie",
    "StationName": "STATIONQUARK",
    "DeviceSerialNumber": "SER88817Q",
    "StudyID": "STUDYID4711Q",
    "RequestedProcedureDescription": "Prozedurquatsch",
    "ImageComments": "Kommentarsalat",
}
PRIVATE = "Privatgeheimnis"
WORDS = (
    *("Quetzalstein", "Hildegund", "PID77Q4Z81", "19371113", "Wuppdikowsky", "ACC5512Z9", "Zyxenfeld"),
    *("Gnomenweg", "Drubbelwitz", "Ottokar", "Schnorchelmann", "Xylophonstaging", "Zwiebelserie"),
    *("STATIONQUARK", "SER88817Q", "STUDYID4711Q", "Prozedurquatsch", "Kommentarsalat", PRIVATE),
)
GOOD = 6
"""Patients whose scans are fine; folders and files are called after every one of them."""


@pytest.fixture(scope="module")
def dicom():
    path = ROOT / "tests" / "unit" / "volumes" / "dicom_by_code.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(empty_project, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of these tests")
    return empty_project


def run(project, raw, capfd, caplog, **params):
    """Ingest and validate; returns the case table and all that was said."""
    paths = {
        "raw": raw,
        "volumes": project / "volumes",
        "cases": project / "cases.parquet",
        "plans": project / "plan.json",
    }
    settings = IngestParams(**{"modality": "CT", "labels": {"liver": 1}, "workers": 2} | params)
    ingest.run("liver", settings, **paths)
    # A second run tells of everything again, out of what was remembered.
    ingest.run("liver", settings, **paths)
    checks = ValidateParams(min_cases=3, folds=2, max_quarantined_share=1.0)
    try:
        validate.run(
            "liver",
            checks,
            **paths,
            accepted=project / "accepted.parquet",
            validation=project / "reports" / "validation",
        )
        said = ""
    except DataError as error:
        said = str(error)
    output = capfd.readouterr()
    assert (project / "reports" / "validation").is_dir()
    return pd.read_parquet(paths["cases"]), "\n".join((said, output.out, output.err, caplog.text))


def leaks(folders, said):
    """Planted words that are found, and where: in any spelling of capitals, also in UTF-16."""
    found = [("what was said", word) for word in WORDS if word.lower() in said.lower()]
    for path in sorted(path for folder in folders for path in folder.rglob("*")):
        contents = [str(path.name).encode(), *(_contents(path) if path.is_file() else ())]
        for content in (content.lower() for content in contents):
            spellings = [
                (word, word.lower().encode(code))
                for word in WORDS
                for code in ("utf-8", "utf-16-le", "utf-16-be")
            ]
            found += [(str(path), word) for word, spelling in spellings if spelling in content]
    return found


def _contents(path):
    """The bytes of a file, and what they hold unpacked."""
    whole = path.read_bytes()
    yield whole
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        yield table.to_csv().encode()
    elif path.suffix == ".b2nd":
        array = blosc2.open(str(path), mode="r")
        yield repr(dict(array.schunk.vlmeta.getall())).encode()
        yield array[:].tobytes()
    elif path.suffix in (".sqlite", ".db"):
        yield "\n".join(sqlite3.connect(path).iterdump()).encode()
    elif path.suffix == ".json":
        yield repr(json.loads(whole)).encode()
    elif path.suffix == ".html":
        for found in re.findall(rb"base64,([A-Za-z0-9+/=]+)", whole):
            yield from _chunks(base64.b64decode(found))
    elif path.suffix == ".png":
        yield from _chunks(whole)


def _chunks(png):
    """A PNG's chunks, and those that are packed unpacked."""
    place = 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        content = png[place + 8 : place + 8 + length]
        yield content
        for packed in (found.start() for found in re.finditer(rb"x[\x01\x5e\x9c\xda]", content)):
            with suppress(zlib.error):
                yield zlib.decompressobj().decompress(content[packed:])
        place += 12 + length


def patient(dicom, raw, number, kind="RTSTRUCT"):
    """A scan in HU and its contours, all that names a person planted everywhere."""
    folder = raw / f"QUETZALSTEIN_Hildegund_{number}"
    uid = f"1.2.3.{number}"
    elements = PLANTED | {
        "PatientID": f"{PLANTED['PatientID']}-{number}",
        "StudyInstanceUID": f"{uid}.1",
        "FrameOfReferenceUID": f"{uid}.2",
    }
    rng = np.random.default_rng(number)
    slices = []
    for k in range(5):
        pixels = (rng.normal(40, 20, (dicom.ROWS, dicom.COLUMNS)) + 1000).astype(np.int16)
        pixels[:2] = 0
        dataset = dicom.dataset_of(
            k, pixels, SeriesInstanceUID=f"{uid}.3", SOPInstanceUID=f"{uid}.7.{k}", **elements
        )
        block = dataset.private_block(0x0011, PRIVATE, create=True)
        block.add_new(1, "LO", PRIVATE)
        slices.append(dicom.save(dataset, folder / f"CT_Quetzalstein_{k}.dcm"))
    dataset = dicom.drawn(kind, series=f"{uid}.3", frame=f"{uid}.2", **elements)
    dataset.StructureSetROISequence = [dicom._item(ROINumber=1, ROIName="liver")]
    contours = [
        dicom._item(
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=4,
            ContourData=[
                *(16.0, 30.0, 30.0 + dicom.STEP * k, 30.0, 30.0, 30.0 + dicom.STEP * k),
                *(30.0, 50.0, 30.0 + dicom.STEP * k, 16.0, 50.0, 30.0 + dicom.STEP * k),
            ],
        )
        for k in (1, 2, 3)
    ]
    dataset.ROIContourSequence = [dicom._item(ContourSequence=contours, ReferencedROINumber=1)]
    contour = dicom.save(dataset, folder / f"RS_Hildegund.Quetzalstein_{number}.dcm")
    return slices, contour


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * share)])


def nowhere(path):
    path.unlink()
    path.symlink_to(path.with_name("gone"))


def change(path, **elements):
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def scramble(path, mark):
    """Damage a file right behind some bytes of it."""
    whole = path.read_bytes()
    place = whole.index(mark) + len(mark)
    path.write_bytes(whole[:place] + b"\xff" * 12 + whole[place + 12 :])


BROKEN = {
    "pixels cut": lambda slices, _: cut(slices[2], 0.7),
    "header cut": lambda slices, _: cut(slices[2], 0.3),
    "a slice is gone": lambda slices, _: slices[2].unlink(),
    "a slice is nothing": lambda slices, _: slices[4].write_bytes(b""),
    "all is nothing": lambda slices, contour: [path.write_bytes(b"") for path in (*slices, contour)],
    "all leads nowhere": lambda slices, contour: [nowhere(path) for path in (*slices, contour)],
    "no contours": lambda _, contour: contour.unlink(),
    "contours cut": lambda _, contour: cut(contour, 0.9),
    "contours cut early": lambda _, contour: cut(contour, 0.5),
    "contours damaged": lambda _, contour: scramble(contour, b"CLOSED_PLANAR "),
    "private damaged": lambda slices, _: scramble(slices[1], b"\x11\x00\x10\x00"),
    "no position": lambda slices, _: change(slices[1], ImagePositionPatient=None),
    "not numbers": lambda slices, _: scramble(slices[1], b"\x20\x00\x32\x00DS"),
    "colour": lambda slices, _: change(slices[1], PhotometricInterpretation=PLANTED["PatientName"][:16]),
    "another modality": lambda slices, _: [change(path, Modality="MR") for path in slices],
    "another kind": lambda _, contour: change(contour, Modality="SEG"),
}


def test_nothing_that_names_a_person_leaves_a_dicom_source(project, dicom, tmp_path, capfd, caplog):
    raw = tmp_path / "raw"
    for number in range(GOOD):
        patient(dicom, raw, number)
    for number, damage in enumerate(BROKEN.values(), start=GOOD):
        damage(*patient(dicom, raw, number))
    table, said = run(project, raw, capfd, caplog)
    assert (table["status"] == "accepted").sum() == GOOD
    refused = table[table["status"] == "quarantined"]
    assert len(refused) == len(BROKEN)
    assert (refused["reason"] != "").all()
    assert (refused["remedy"] != "").all()
    assert len(said) > 1000, "nothing was captured"
    assert leaks([project, tmp_path / "home"], said) == []


def test_nothing_of_the_words_in_other_headers_leaves_them(project, tmp_path, capfd, caplog):
    raw = tmp_path / "raw"
    for folder in ("images", "labels"):
        (raw / folder).mkdir(parents=True)
    words = list(WORDS)
    for number in range(9):
        image, label = _volumes(number)
        if number % 3 == 0:
            _nifti(raw / "images" / f"case{number}.nii.gz", image, words)
        else:
            _itk(raw / "images" / f"case{number}{'.mha' if number % 3 == 1 else '.nrrd'}", image, words)
        _nifti(raw / "labels" / f"case{number}.nii.gz", label, words)
    for number, name in enumerate(("case6.nii.gz", "case7.mha", "case8.nrrd")):
        cut(raw / "images" / name, 0.95 - number / 10)
    table, said = run(project, raw, capfd, caplog)
    assert (table["status"] == "accepted").sum() == 6
    assert leaks([project, tmp_path / "home"], said) == []


def _volumes(number):
    rng = np.random.default_rng(number)
    image = rng.normal(40, 20, (20, 24, 10)).astype(np.int16)
    image[:2] = -1000
    label = np.zeros(image.shape, np.uint8)
    label[5:14, 6:15, 3:7] = 1
    return image, label


def _nifti(path, array, words):
    image = nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 3.0, 1.0]))
    for field, length in {"descrip": 80, "db_name": 18, "aux_file": 24, "intent_name": 16}.items():
        image.header[field] = words[len(field) % len(words)][:length].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", " ".join(words).encode()))
    nibabel.save(image, path)


def _itk(path, array, words):
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing((1.5, 1.5, 3.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    whole = path.read_bytes()
    if path.suffix == ".mha":
        before = b"ElementDataFile"
        lines = [f"Field{number} = {word}" for number, word in enumerate(words)]
        lines.append(f"Comment = {' '.join(words)}")
    else:
        before = b"encoding:"
        lines = [f"key{number}:={word}\n# {word}" for number, word in enumerate(words)]
        lines.append(f"content: {' '.join(words)}")
    whole = whole.replace(before, "\n".join([*lines, ""]).encode() + before)
    path.write_bytes(whole)


@pytest.mark.parametrize("code", ["utf-8", "utf-16-le"])
def test_a_leak_would_be_found(tmp_path, code):
    """The search finds what it is meant to find, or the tests above prove nothing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.bin").write_bytes(b"x" + "QUETZALstein".encode(code))
    pd.DataFrame({"a": ["hildeGUND"]}).to_parquet(tmp_path / "a" / "c.parquet", compression="gzip")
    assert {word for _, word in leaks([tmp_path], "")} == {"Quetzalstein", "Hildegund"}
    assert leaks([], "of ottokar") == [("what was said", "Ottokar")]
