"""Sources full of files that other projects keep because they are odd, and of cases that end a process."""

import csv
import re
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest

from pipeline.params import IngestParams
from pipeline.stages import ingest

ROOT = Path(__file__).parents[2]
NIBABEL = Path(nibabel.__file__).parent / "tests" / "data"
PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
GOOD = ("good_1", "good_2", "good_3")
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
ACCEPTED = {
    "nibabel_anatomical_nii": "one 3-D volume of big-endian integers, sform and qform alike",
    "nibabel_standard_nii_gz": "one 3-D volume of bytes, with an sform and no qform",
    "nibabel_reoriented_anat_moved_nii": "one 3-D volume of floats; its resampled twin holds NaN",
}
"""What may be learnt from, and why."""
REFUSED = {
    "nibabel_functional_nii": "it has 20 channels, but 1 is expected",
    "nibabel_example4d_nii_gz": "it has 2 channels, but 1 is expected",
    "nibabel_resampled_anat_moved_nii": "NaN",
    "nibabel_row_major_dconn_nii": "not a NIfTI volume",
    "nibabel_analyze_hdr": "its other half analyze.img is not there",
    "nibabel_test_mgz": "is no DICOM file and none of",
    "pydicom_MR_truncated_dcm": "1 slice, a volume has at least 3",
    "pydicom_SC_rgb_jpeg_dcm": "its kind is",
    "pydicom_rtplan_truncated_dcm": "its kind is",
}
"""Some of the others, and a part of the reason."""


@pytest.fixture(autouse=True)
def project(empty_project, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of these tests")


def run(raw, **params):
    """The stage; the case table, indexed by case."""
    settings = {"modality": "MR", "labels": {"liver": 1}, "workers": 2} | params
    paths = {name: Path(name) for name in ("volumes", "plan.json", "cases.parquet")}
    ingest.run(
        "liver",
        IngestParams(**settings),
        raw=raw,
        volumes=paths["volumes"],
        cases=paths["cases.parquet"],
        plans=paths["plan.json"],
    )
    table = pd.read_parquet(paths["cases.parquet"]).set_index("case")
    stored = {path.stem for path in paths["volumes"].glob("*.b2nd")}
    assert stored == set(table.index[table["status"] == "accepted"])
    refused = table[table["status"] != "accepted"]
    assert (refused["status"] == "quarantined").all()
    assert (refused["reason"] != "").all()
    assert (refused["remedy"] != "").all()
    return table


def good(raw, names=GOOD):
    """Sound cases: an image and a label map each."""
    for number, name in enumerate(names):
        image = np.random.default_rng(number).integers(-1000, 400, (14, 13, 12)).astype(np.int16)
        label = np.zeros(image.shape, np.uint8)
        label[3:9, 3:9, 3:9] = 1
        for folder, array in (("images", image), ("labels", label)):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), raw / folder / f"{name}.nii.gz")


def label_for(path):
    """A label map in the geometry of the image, where that is NIfTI, else in that of a good one."""
    shape, affine = (14, 13, 12), AFFINE
    if path.name.endswith((".nii", ".nii.gz")) and ".dconn." not in path.name:
        image = nibabel.load(path)
        shape, affine = (*image.shape, 1, 1)[:3], image.affine
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(n // 3, n // 3 + max(1, n // 4)) for n in shape)] = 1
    return nibabel.Nifti1Image(label, affine)


@pytest.fixture
def listed(tmp_path):
    """A manifest that lists every file of both projects as the image of a case, and the good cases."""
    raw = tmp_path / "raw"
    good(raw)
    rows = [(f"images/{name}.nii.gz", f"labels/{name}.nii.gz", name, name) for name in GOOD]
    for kind, folder in (("nibabel", NIBABEL), ("pydicom", PYDICOM)):
        shutil.copytree(folder, raw / kind, ignore=shutil.ignore_patterns("__pycache__"))
        for number, path in enumerate(sorted(path for path in (raw / kind).rglob("*") if path.is_file())):
            label = raw / "labels" / f"{kind}_{number}.nii.gz"
            nibabel.save(label_for(path), label)
            image = path.relative_to(raw)
            rows.append((str(image), str(label.relative_to(raw)), re.sub(r"\W", "_", str(image)), str(image)))
    with open(raw / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "case", "patient"), *rows])
    return raw


def test_the_odd_files_of_nibabel_and_pydicom_are_accepted_or_refused_and_stop_nothing(listed):
    table = run(listed)
    assert len(table) > 250
    assert set(table.index[table["status"] == "accepted"]) == {*GOOD, *ACCEPTED}
    for case, reason in REFUSED.items():
        assert reason in table.loc[case, "reason"]


def test_a_tree_of_all_files_of_pydicom_is_a_source(tmp_path, capfd):
    """As a layout of DICOM: what belongs together is found, nothing has a mask, one patient is fine."""
    raw = tmp_path / "raw"
    shutil.copytree(PYDICOM, raw / "odd")
    shutil.copytree(next(PYDICOM.rglob("CT5N")), raw / "good")
    for path in (raw / "good").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "p-77", "1.2.9.1", "1.2.9.2"
        dataset.save_as(path)
    contour(raw, dataset)
    table = run(raw, modality="CT")
    assert len(table) > 10
    assert list(table.index[table["status"] == "accepted"]) == ["good"]
    assert "of no case: " in capfd.readouterr().err


def contour(raw, image):
    """Contours of a liver in the middle of a series, which one of its images stands for."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.9.3"
    dataset.Modality, dataset.PatientID = "RTSTRUCT", image.PatientID
    for keyword, item in (
        ("RTReferencedSeriesSequence", {"SeriesInstanceUID": image.SeriesInstanceUID}),
        ("RTReferencedStudySequence", {"ReferencedSOPInstanceUID": image.StudyInstanceUID}),
        ("ReferencedFrameOfReferenceSequence", {"FrameOfReferenceUID": image.FrameOfReferenceUID}),
        ("StructureSetROISequence", {"ROINumber": 1, "ROIName": "liver"}),
        ("ROIContourSequence", {"ReferencedROINumber": 1}),
        ("ContourSequence", {"ContourGeometricType": "CLOSED_PLANAR", "NumberOfContourPoints": 4}),
    ):
        setattr(dataset, keyword, [_item(item)])
    place = np.array(image.ImagePositionPatient, float)
    width = float(image.PixelSpacing[0]) * image.Columns
    along, down = np.reshape(image.ImageOrientationPatient, (2, 3)) * width
    corners = (place + a * along + b * down for a, b in ((0.3, 0.3), (0.7, 0.3), (0.7, 0.7), (0.3, 0.7)))
    dataset.ContourSequence[0].ContourData = [round(float(n), 4) for corner in corners for n in corner]
    for inner, outer in (
        ("RTReferencedSeriesSequence", "RTReferencedStudySequence"),
        ("RTReferencedStudySequence", "ReferencedFrameOfReferenceSequence"),
        ("ContourSequence", "ROIContourSequence"),
    ):
        setattr(dataset[outer][0], inner, dataset[inner].value)
        delattr(dataset, inner)
    dataset.save_as(raw / "good" / "RS.dcm", enforce_file_format=True)


def _item(elements):
    item = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


HUGE = 30_000


def huge(raw):
    """Headers that claim 30,000 voxels on each axis, before hardly any data."""
    nifti = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), AFFINE)
    for name in ("nifti", "packed"):
        path = raw / "images" / f"{name}.nii{'.gz' if name == 'packed' else ''}"
        whole = bytearray(nifti.to_bytes())
        struct.pack_into("<3h", whole, 42, HUGE, HUGE, HUGE)
        with nibabel.openers.ImageOpener(path, "wb") as file:
            file.write(bytes(whole))
    (raw / "images" / "meta.mha").write_bytes(
        f"NDims = 3\nDimSize = {HUGE} {HUGE} {HUGE}\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n".encode()
        + bytes(128)
    )
    (raw / "images" / "nrrd.nrrd").write_bytes(
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {HUGE} {HUGE} {HUGE}\nspacings: 1 1 1\n"
        "endian: little\nencoding: raw\n\n".encode()
        + bytes(128)
    )
    for case in ("nifti", "packed", "meta", "nrrd"):
        shutil.copy(raw / "labels" / "good_1.nii.gz", raw / "labels" / f"{case}.nii.gz")


def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated(tmp_path):
    raw = tmp_path / "raw"
    good(raw)
    huge(raw)
    table = run(raw, timeout_seconds=60)
    assert set(table.index[table["status"] == "accepted"]) == set(GOOD)
    for case in ("nifti", "packed", "meta", "nrrd"):
        assert f"its header claims ({HUGE}, {HUGE}, {HUGE}) voxels" in table.loc[case, "reason"]


POISONED = {
    "aborts": "its worker died (exit code -6",
    "crashes": "its worker died (exit code -11",
    "hangs": "took longer than 5 s",
    "out_of_memory": "its worker died (exit code -9, having held ",
    "raises": "RuntimeError: of a library",
}


def test_a_case_that_ends_or_holds_up_its_process_is_lost_alone(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    good(raw, (*GOOD, *POISONED, "looked_at"))
    with monkeypatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        import poisoned_cases

        patch.setattr(ingest, "attempt_case", poisoned_cases.attempt)
        patch.setattr("pipeline.volumes.source.survey_case", poisoned_cases.survey)
        table = run(raw, timeout_seconds=5)
    # Whose header could not be looked at for the plan is made all the same.
    assert set(table.index[table["status"] == "accepted"]) == {*GOOD, "looked_at"}
    for case, reason in POISONED.items():
        assert table.loc[case, "reason"].startswith(f"{case}: {reason}")
    held = re.search(r"having held (\d+) MiB", table.loc["out_of_memory", "reason"])
    assert int(held[1]) > poisoned_cases.HELD >> 20
    # None of it was the fault of the files: the next run tries again.
    table = run(raw)
    assert (table["status"] == "accepted").all()
