import errno
import json
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipeline.atomic import sha256_file
from pipeline.errors import DataError, MissingError, ParamsError
from pipeline.prediction import predict
from pipeline.prediction.predict import Summary, current_model, predict_scans

ROOT = Path(__file__).parents[3]
AIR, LIVER = -1000, 100
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 1.5, -7], [0, -1.0, 0, 4], [0, 0, 0, 1]])
SHAPE = (9, 11, 13)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with one organ, without a model."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(ROOT / "dvc.yaml", folder)
    sections = "\n".join(
        f"    {stage}: {{}}" for stage in ("validate", "patches", "augment", "train", "evaluate", "register")
    )
    ingest = "    ingest: {modality: CT, labels: {liver: 5}}"
    (folder / "params.yaml").write_text(f"defaults: {{}}\norgans:\n  liver:\n{ingest}\n{sections}\n")
    monkeypatch.delenv("HOUNSFIELD_HOME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def trained(root, save_model):
    """The same project with a trained model that is not registered."""
    save_model(root / "models" / "liver", {"liver": 5}, (AIR, LIVER), spacing=(1.0, 1.5, 2.0))
    return root


@pytest.fixture
def scans(tmp_path):
    """A folder with three scans."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, name in enumerate(["a.nii.gz", "b.nii", "c.nii.gz"]):
        write_scan(folder / name, number)
    return folder


def box(number=0):
    inside = np.zeros(SHAPE, bool)
    inside[1 : 5 + number, 2:8, 3:9] = True
    return inside


def write_scan(path, number=0):
    image = np.where(box(number), LIVER, AIR).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), path)
    return path


def assert_labels(path, number=0):
    image = nibabel.load(path)
    assert image.shape == SHAPE
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.where(box(number), 5, 0))


def test_a_file_to_a_file(trained, scans, tmp_path):
    target = tmp_path / "out" / "labels.nii.gz"
    summary = predict_scans(trained, "liver", scans / "a.nii.gz", target, "auto")
    assert (summary.written, summary.failed) == ([str(target)], {})
    assert_labels(target)


def test_a_file_into_a_folder(trained, scans, tmp_path):
    summary = predict_scans(trained, "liver", scans / "b.nii", tmp_path / "out", "auto")
    assert summary.written == [str(tmp_path / "out" / "b.nii")]
    assert_labels(tmp_path / "out" / "b.nii", 1)


def test_a_folder_into_a_folder(trained, scans, tmp_path):
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "b.nii", "c.nii.gz"]
    for number, path in enumerate(summary.written):
        assert_labels(path, number)


def test_the_same_scan_gives_the_same_bytes(trained, scans, tmp_path):
    targets = [tmp_path / name / "labels.nii.gz" for name in ("one", "other")]
    for target in targets:
        predict_scans(trained, "liver", scans / "a.nii.gz", target, "auto")
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_a_bad_file_does_not_stop_the_others(trained, scans, tmp_path):
    (scans / "aa.nii.gz").write_bytes(b"no scan at all")
    shifted = nibabel.Nifti1Image(np.where(box(), LIVER, 0).astype(np.int16) + 1024, AFFINE)
    nibabel.save(shifted, scans / "bb.nii.gz")
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "b.nii", "c.nii.gz"]
    assert sorted(summary.failed) == ["aa.nii.gz", "bb.nii.gz"]
    for name, reason in summary.failed.items():
        assert name in reason
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii", "c.nii.gz"]


def test_a_file_of_another_kind_is_told(trained, tmp_path):
    (tmp_path / "slice.dcm").write_bytes(bytes(200))
    summary = predict_scans(trained, "liver", tmp_path / "slice.dcm", tmp_path / "out", "auto")
    assert summary.written == []
    assert "slice.dcm" in summary.failed["slice.dcm"]


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".mhd"])
def test_scans_of_another_format_are_labelled_as_nifti(trained, tmp_path, suffix):
    import SimpleITK

    folder = tmp_path / "scans"
    folder.mkdir()
    write_scan(folder / "a.nii.gz")
    image = SimpleITK.ReadImage(str(folder / "a.nii.gz"))
    SimpleITK.WriteImage(image, str(folder / f"a{suffix}"))
    (folder / "a.nii.gz").unlink()
    summary = predict_scans(trained, "liver", folder, tmp_path / "out", "auto")
    assert (summary.written, summary.failed) == ([str(tmp_path / "out" / "a.nii.gz")], {})
    assert_labels(tmp_path / "out" / "a.nii.gz")


def test_a_scan_that_is_huge_at_the_spacing_of_the_model_does_not_stop_the_others(trained, scans, tmp_path):
    image = np.where(box(0), LIVER, AIR).astype(np.int16)
    # As where micrometres were taken for millimetres.
    nibabel.save(nibabel.Nifti1Image(image, np.diag([900.0, 900.0, 900.0, 1.0])), scans / "huge.nii.gz")
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert list(summary.failed) == ["huge.nii.gz"]
    assert "huge.nii.gz: at the model's spacing it has" in summary.failed["huge.nii.gz"]
    assert summary.written


def test_a_header_without_its_voxels_does_not_stop_the_others(trained, scans, tmp_path):
    (scans / "aa.hdr").write_bytes(bytes(348))
    (scans / "bb.mhd").write_text("ObjectType = Image\nElementDataFile = gone.raw\n")
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "b.nii", "c.nii.gz"]
    assert sorted(summary.failed) == ["aa.hdr", "bb.mhd"]


def test_two_scans_never_share_a_label_map(trained, scans, tmp_path):
    import SimpleITK

    write_scan(tmp_path / "other.nii.gz", 2)
    image = SimpleITK.ReadImage(str(tmp_path / "other.nii.gz"))
    SimpleITK.WriteImage(image, str(scans / "a.mha"))
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert len(summary.written) == len(set(summary.written)) == 3
    ((name, reason),) = summary.failed.items()
    assert name == "a.nii.gz"
    assert "a.mha" not in reason.split(":")[0]
    assert "label map of another scan" in reason
    assert_labels(tmp_path / "out" / "a.nii.gz", 2)


@pytest.fixture
def two_channels(root, save_model):
    """A project whose model was trained on two images a case."""
    save_model(root / "models" / "liver", {"liver": 5}, (AIR, LIVER), spacing=(1.0, 1.5, 2.0), channels=2)
    return root


def test_the_channels_of_a_case_become_one_label_map(two_channels, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, case in enumerate(["a", "b"]):
        write_scan(folder / f"{case}_0000.nii.gz", number)
        write_scan(folder / f"{case}_0001.nii.gz", number)
    write_scan(folder / "c_0000.nii.gz")
    summary = predict_scans(two_channels, "liver", folder, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "b.nii.gz"]
    for number, path in enumerate(summary.written):
        assert_labels(path, number)
    assert "c: 1 channel, but the model was trained on 2" in summary.failed["c"]


def test_a_network_that_can_do_without_a_channel_labels_the_case_that_lacks_one(root, save_model, tmp_path):
    network = {"name": "nearest_intensity", "does_without": True}
    model = root / "models" / "liver"
    save_model(model, {"liver": 5}, (AIR, LIVER), spacing=(1.0, 1.5, 2.0), channels=2, network=network)
    folder = tmp_path / "scans"
    folder.mkdir()
    write_scan(folder / "a_0001.nii.gz", 1)
    write_scan(folder / "b_0000.nii.gz", 2)
    write_scan(folder / "c.nii.gz")
    summary = predict_scans(root, "liver", folder, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "b.nii.gz"]
    assert_labels(tmp_path / "out" / "a.nii.gz", 1)
    assert_labels(tmp_path / "out" / "b.nii.gz", 2)
    # Which channel it is, its name does not say.
    assert "multistream" in summary.failed["c"]
    alone = predict_scans(root, "liver", folder / "a_0001.nii.gz", tmp_path / "alone.nii.gz", "auto")
    assert alone.failed == {}
    assert_labels(tmp_path / "alone.nii.gz", 1)


@pytest.mark.parametrize("channels", [2, 3])
@pytest.mark.parametrize("name", ["a_0001", "a"])
def test_two_files_of_one_channel_do_not_make_up_for_another(root, save_model, tmp_path, channels, name):
    network = {"name": "nearest_intensity", "does_without": True}
    model = root / "models" / "liver"
    save_model(model, {"liver": 5}, (AIR, LIVER), spacing=(1.0, 1.5, 2.0), channels=channels, network=network)
    folder = tmp_path / "scans"
    folder.mkdir()
    for suffix in (".nii.gz", ".nii"):
        write_scan(folder / f"{name}{suffix}")
    summary = predict_scans(root, "liver", folder, tmp_path / "out", "auto")
    assert summary.written == []
    assert f"a: {name}.nii and {name}.nii.gz stand for the same channel" in summary.failed["a"]


def test_a_single_file_is_no_case_of_two_channels(two_channels, scans, tmp_path):
    summary = predict_scans(two_channels, "liver", scans / "a.nii.gz", tmp_path / "out", "auto")
    assert summary.written == []
    assert "1 channel, but the model was trained on 2" in summary.failed["a.nii.gz"]


@pytest.mark.parametrize("name", ["a", "a_0001"])
def test_one_file_of_two_channels_is_labelled_as_two_files_are(two_channels, tmp_path, name):
    folder = tmp_path / "scans"
    folder.mkdir()
    scans = [nibabel.load(write_scan(tmp_path / f"{number}.nii.gz", number)) for number in (1, 2)]
    for channel, scan in enumerate(scans):
        nibabel.save(scan, folder / f"apart_{channel:04d}.nii.gz")
    stacked = np.stack([np.asanyarray(scan.dataobj) for scan in scans], axis=-1)
    nibabel.save(nibabel.Nifti1Image(stacked, scans[0].affine), folder / f"{name}.nii.gz")
    summary = predict_scans(two_channels, "liver", folder, tmp_path / "out", "auto")
    assert summary.failed == {}
    apart, together = (nibabel.load(tmp_path / "out" / f"{case}.nii.gz") for case in ("apart", name))
    assert np.array_equal(apart.dataobj, together.dataobj)
    assert np.array_equal(apart.affine, together.affine)
    alone = predict_scans(two_channels, "liver", folder / f"{name}.nii.gz", tmp_path / "alone.nii.gz", "auto")
    assert alone.failed == {}
    assert np.array_equal(apart.dataobj, nibabel.load(tmp_path / "alone.nii.gz").dataobj)


def test_four_digits_may_number_the_cases_of_which_one_file_holds_all_channels(two_channels, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in (0, 1):
        scan = nibabel.load(write_scan(tmp_path / "one.nii.gz", number))
        stacked = np.stack([np.asanyarray(scan.dataobj)] * 2, axis=-1)
        nibabel.save(nibabel.Nifti1Image(stacked, scan.affine), folder / f"patient_{number:04d}.nii.gz")
    (folder / "patient_0002.nii.gz").write_bytes(b"no scan")
    summary = predict_scans(two_channels, "liver", folder, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["patient_0000.nii.gz", "patient_0001.nii.gz"]
    for number, path in enumerate(summary.written):
        assert_labels(path, number)
    assert "patient_0002.nii.gz cannot be read" in summary.failed["patient"]


def test_more_channels_than_the_model_knows_are_refused(trained, tmp_path):
    scan = nibabel.load(write_scan(tmp_path / "a.nii.gz"))
    stacked = np.stack([np.asanyarray(scan.dataobj)] * 3, axis=-1)
    nibabel.save(nibabel.Nifti1Image(stacked, scan.affine), tmp_path / "a.nii.gz")
    summary = predict_scans(trained, "liver", tmp_path / "a.nii.gz", tmp_path / "out", "auto")
    assert "a.nii.gz: 3 channels, but the model was trained on 1" in summary.failed["a.nii.gz"]


def write_series(folder, number=0):
    """The scan `number` as a DICOM series of axial slices, head last."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    voxels = np.where(box(number), LIVER, AIR).astype(np.int16)
    for k in range(SHAPE[2]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, frame
        image.PatientID, image.Modality, image.InstanceNumber = f"Doe {number}", "CT", k + 1
        image.Rows, image.Columns = SHAPE[1], SHAPE[0]
        image.PixelSpacing, image.SliceThickness = [1.5, 2.0], 1.0
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, k]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = voxels[:, :, k].T.tobytes()
        image.save_as(folder / f"{k}.dcm", enforce_file_format=True)


def test_every_dicom_series_in_a_folder_is_labelled(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    for number in range(2):
        write_series(tmp_path / "scans" / f"study_{number}", number)
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto")
    assert summary.failed == {}
    assert len(summary.written) == 2
    assert not any("Doe" in path for path in summary.written), "no name of a patient"
    found = sorted((np.asarray(nibabel.load(path).dataobj) for path in summary.written), key=np.sum)
    for number, labels in enumerate(found):
        np.testing.assert_array_equal(labels, np.where(box(number), 5, 0))


def test_a_link_that_leads_nowhere_hides_no_dicom_series(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "a secret of the tests")
    write_series(tmp_path / "study")
    (tmp_path / "study/labels.nii.gz").symlink_to(tmp_path / "nowhere")
    summary = predict_scans(trained, "liver", tmp_path / "study", tmp_path / "out", "auto")
    assert (len(summary.written), summary.failed) == (1, {})
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.nii.gz").symlink_to(tmp_path / "nowhere")
    assert list(predict_scans(trained, "liver", alone, tmp_path / "out", "auto").failed) == ["a.nii.gz"]


def change_series(folder, **elements):
    import pydicom

    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(image, keyword, value)
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        image.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("damaged", [{"12": 200}, {"10": 0, "11": 0, "12": 0}])
def test_a_series_whose_last_slices_are_cut_short_is_not_labelled(trained, tmp_path, monkeypatch, damaged):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    for number, name in enumerate(["whole", "short"]):
        write_series(tmp_path / "scans" / name, number)
    for name, size in damaged.items():
        path = tmp_path / "scans" / "short" / f"{name}.dcm"
        path.write_bytes(path.read_bytes()[:size])
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["whole.nii.gz"]
    assert "short: " in summary.failed["short"]
    assert "a slice may be missing: fetch the series again" in summary.failed["short"]


@pytest.mark.parametrize("written_as", ["dicom-seg", "rtstruct"])
def test_what_was_drawn_on_one_series_of_a_patient_hides_no_other(trained, tmp_path, monkeypatch, written_as):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    scans = tmp_path / "scans"
    write_series(scans / "monday")
    predict_scans(trained, "liver", scans, scans / "found", "auto", written_as)
    write_series(scans / "tuesday", 1)
    change_series(scans / "tuesday", PatientID="Doe 0")
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert sorted(Path(path).name for path in summary.written) == ["monday.nii.gz", "tuesday.nii.gz"]
    assert summary.failed == {}
    assert summary.left_out == ["1 SEG" if written_as == "dicom-seg" else "1 RTSTRUCT"]


def test_what_is_no_ct_or_mr_beside_a_series_is_told(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "scans" / "ct")
    write_series(tmp_path / "scans" / "pet", 1)
    change_series(tmp_path / "scans" / "pet", SOPClassUID="1.2.840.10008.5.1.4.1.1.128", Modality="PT")
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto")
    assert len(summary.written) == 1
    assert summary.left_out == ["13 PET images"]
    with pytest.raises(DataError, match="no DICOM series, but 13 PET images"):
        predict_scans(trained, "liver", tmp_path / "scans" / "pet", tmp_path / "out", "auto")


def test_what_lies_beside_and_below_nifti_scans_is_told(trained, scans, tmp_path):
    write_series(scans / "study")
    (scans / "deeper").mkdir()
    write_scan(scans / "deeper" / "d.nii.gz")
    (scans / "notes.txt").write_text("read me")
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "b.nii", "c.nii.gz"]
    assert summary.left_out == ["1 scan in folders below", "13 DICOM files beside scans of other formats"]


def test_a_folder_below_that_cannot_be_read_is_in_no_way(trained, scans, tmp_path, closed):
    (scans / "deeper").mkdir()
    closed(scans / "deeper")
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert (len(summary.written), summary.failed) == (3, {})
    assert summary.left_out == [f"{scans / 'deeper'} cannot be read (Permission denied)"]


def test_a_dicom_series_gets_a_segmentation_that_refers_to_it(trained, tmp_path, monkeypatch):
    import pydicom
    from highdicom.seg import segread

    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "scans" / "study", 1)
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto", "dicom-seg")
    assert summary.failed == {}
    (written,) = map(Path, summary.written)
    assert written.parent == tmp_path / "out"
    assert "Doe" not in written.name
    found = segread(written)
    slices = [pydicom.dcmread(path) for path in (tmp_path / "scans" / "study").iterdir()]
    assert found.PatientID == "Doe 1"
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[keyword].value == slices[0][keyword].value
    assert found.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert found.segment_numbers == [1]
    assert found.get_segment_description(1).SegmentLabel == "liver"
    assert found.get_segment_description(1).segmented_property_type.meaning == "Liver"
    slices.sort(key=lambda image: image.InstanceNumber)
    uids = [image.SOPInstanceUID for image in slices]
    masks = found.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)[..., 0]
    np.testing.assert_array_equal(masks.transpose(2, 1, 0), box(1))


def test_a_dicom_series_gets_contours_that_refer_to_it(trained, tmp_path, monkeypatch):
    from pipeline.volumes.readers import read_geometry
    from pipeline.volumes.readers.rtstruct import rasterise

    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "scans" / "study", 1)
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto", "rtstruct")
    assert summary.failed == {}
    geometry = read_geometry(*(tmp_path / "scans" / "study").iterdir())
    np.testing.assert_array_equal(rasterise(Path(summary.written[0]), "liver", geometry).array, box(1))


@pytest.mark.parametrize("written_as", ["dicom-seg", "rtstruct"])
def test_a_file_that_is_no_dicom_has_nothing_to_refer_to(trained, scans, tmp_path, written_as):
    summary = predict_scans(trained, "liver", scans / "a.nii.gz", tmp_path / "out", "auto", written_as)
    assert summary.written == []
    assert "a.nii.gz is no DICOM series" in summary.failed["a.nii.gz"]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_series_of_another_modality_is_told(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "scans" / "study")
    change_series(tmp_path / "scans" / "study", SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR")
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto")
    assert summary.written == []
    assert "its header says MR, but CT is expected" in " ".join(summary.failed.values())


def test_what_a_killed_prediction_left_is_removed_by_the_next_one_and_nothing_else(trained, scans, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    # No process has such a number.
    left = [f".99999999.partial.{name}" for name in ("a.nii.gz", "b.nii")]
    kept = [".99999999.partial.of_another.nii.gz", f".{os.getppid()}.partial.a.nii.gz"]
    for name in (*left, *kept):
        (out / name).touch()
    summary = predict_scans(trained, "liver", scans, out, "auto")
    assert sorted(path.name for path in out.glob(".*")) == sorted(kept)
    assert summary.failed == {}


def test_scans_are_never_written_over(trained, scans):
    before = {path.name: path.read_bytes() for path in scans.iterdir()}
    with pytest.raises(DataError, match="overwrite"):
        predict_scans(trained, "liver", scans, scans, "auto")
    for target in (scans / "a.nii.gz", scans):
        summary = predict_scans(trained, "liver", scans / "a.nii.gz", target, "auto")
        assert summary.written == []
        assert "overwrite" in summary.failed["a.nii.gz"]
    assert {path.name: path.read_bytes() for path in scans.iterdir()} == before


def test_what_stands_in_the_place_of_a_label_map_does_not_stop_the_others(trained, scans, tmp_path):
    (tmp_path / "out" / "b.nii").mkdir(parents=True)
    summary = predict_scans(trained, "liver", scans, tmp_path / "out", "auto")
    assert [Path(path).name for path in summary.written] == ["a.nii.gz", "c.nii.gz"]
    assert "b.nii cannot be written (Is a directory): make room" in summary.failed["b.nii"]
    assert summary.exit_code == MissingError.exit_code


@pytest.mark.parametrize("place", ["file/out", "link/out", "/proc/out", "n" * 300])
def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_computed(
    trained, scans, tmp_path, place, monkeypatch
):
    def never(*_):
        raise AssertionError("computed")

    monkeypatch.setattr(predict, "_label", never)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingError, match=r"cannot be written \("):
        predict_scans(trained, "liver", scans, tmp_path / place, "auto")


@pytest.mark.parametrize("written_as", ["dicom-seg", "rtstruct"])
def test_a_full_disk_is_no_fault_of_the_series(trained, tmp_path, monkeypatch, written_as):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "scans" / "study")
    monkeypatch.setattr(os, "fsync", full)
    summary = predict_scans(trained, "liver", tmp_path / "scans", tmp_path / "out", "auto", written_as)
    (reason,) = summary.failed.values()
    assert "cannot be written (No space left on device)" in reason
    assert list((tmp_path / "out").iterdir()) == []


def test_a_linked_folder_is_the_folder_it_leads_to(trained, scans, tmp_path):
    (tmp_path / "link").symlink_to(scans)
    with pytest.raises(DataError, match="overwrite"):
        predict_scans(trained, "liver", scans, tmp_path / "link", "auto")


def test_a_folder_does_not_go_into_a_file(trained, scans, tmp_path):
    with pytest.raises(DataError, match="must be one too"):
        predict_scans(trained, "liver", scans, tmp_path / "labels.nii.gz", "auto")


@pytest.mark.parametrize("written_as", ["dicom-seg", "rtstruct"])
def test_what_is_written_as_dicom_takes_the_place_of_the_file_of_before(
    trained, tmp_path, monkeypatch, written_as
):
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "study")
    for _ in range(2):
        summary = predict_scans(trained, "liver", tmp_path / "study", tmp_path / "out", "auto", written_as)
        assert (summary.failed, len(summary.written)) == ({}, 1)
    monkeypatch.setattr(predict, "_label", lambda *_: None)
    scan, target = tmp_path / "study" / "0.dcm", tmp_path / "found.dcm"
    target.write_text("of before")
    summary = predict_scans(trained, "liver", scan, target, "auto", written_as)
    assert summary.written == [str(target)]
    with pytest.raises(DataError, match=r"found\.dcm is a file that cannot hold .* ends with \.nii\.gz or"):
        predict_scans(trained, "liver", scan, target, "auto")
    with pytest.raises(DataError, match="must be one too"):
        predict_scans(trained, "liver", tmp_path / "study", tmp_path / "new.dcm", "auto", written_as)


@pytest.mark.parametrize("written_as", ["dicom-seg", "rtstruct"])
def test_an_image_is_not_lost_to_what_is_written_as_dicom(trained, tmp_path, written_as):
    write_series(tmp_path / "study")
    scan, image = tmp_path / "study" / "0.dcm", tmp_path / "study" / "1.dcm"
    notes, before = tmp_path / "notes.dcm", image.read_bytes()
    notes.write_text("keep me")
    for target in (image, notes):
        summary = predict_scans(trained, "liver", scan, target, "auto", written_as)
        assert "is there already, and neither a segmentation nor contours" in summary.failed["0.dcm"]
    assert (image.read_bytes(), notes.read_text()) == (before, "keep me")


@pytest.mark.parametrize("one", [True, False])
def test_a_file_that_is_no_label_map_is_no_target(trained, scans, tmp_path, one):
    notes = tmp_path / "notes.txt"
    notes.write_text("keep me")
    with pytest.raises(DataError, match=r"notes\.txt"):
        predict_scans(trained, "liver", scans / "a.nii.gz" if one else scans, notes, "auto")
    assert notes.read_text() == "keep me"


def test_a_source_that_is_not_there_is_missed(trained, tmp_path):
    with pytest.raises(MissingError, match="nowhere is not there"):
        predict_scans(trained, "liver", tmp_path / "nowhere", tmp_path / "out", "auto")


def test_a_folder_without_scans_is_told(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no .*\.nii\.gz.* file and no DICOM series"):
        predict_scans(trained, "liver", tmp_path / "empty", tmp_path / "out", "auto")


@pytest.mark.parametrize("which", ["auto", "latest", "champion", "challenger"])
def test_without_a_model_the_command_that_makes_one_is_named(root, which):
    with pytest.raises(MissingError, match="dvc repro register@liver"):
        current_model(root, "liver", which)


@pytest.mark.parametrize("which", ["auto", "latest", "champion", "challenger"])
def test_an_organ_nobody_knows_is_told_with_the_one_that_was_meant(root, which):
    with pytest.raises(ParamsError, match="did you mean 'liver'"):
        current_model(root, "livre", which)


def test_a_model_can_be_given_as_a_folder(root, save_model, scans, tmp_path):
    folder = save_model(tmp_path / "elsewhere", {"liver": 5}, (AIR, LIVER), spacing=(1.0, 1.5, 2.0))
    target = tmp_path / "labels.nii.gz"
    predict_scans(root, "liver", scans / "a.nii.gz", target, str(folder))
    assert_labels(target)


@pytest.mark.parametrize("written_as", ["dicom-seg", "rtstruct"])
def test_a_model_given_as_a_folder_is_called_by_organ_and_weights(
    root, save_model, tmp_path, monkeypatch, written_as
):
    import pydicom

    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    write_series(tmp_path / "scans" / "study")
    folder = save_model(tmp_path / "of_doe", {"liver": 5}, (AIR, LIVER), organ="liver")
    summary = predict_scans(root, "liver", tmp_path / "scans", tmp_path / "out", str(folder), written_as)
    digest = sha256_file(folder / "weights.safetensors")
    assert summary.model == f"the liver model {digest[:12]}"
    (written,) = summary.written
    assert pydicom.dcmread(written).SeriesDescription.endswith(f" by {summary.model}")
    assert b"of_doe" not in Path(written).read_bytes()


def test_a_folder_that_holds_no_model_is_told(root, tmp_path):
    with pytest.raises(MissingError, match="holds no model"):
        current_model(root, "liver", str(tmp_path))


def test_a_model_that_is_neither_known_nor_a_folder_is_told_what_may_be_given(root):
    with pytest.raises(
        MissingError, match="the model 'champoin' is no folder that is there: give auto, champ"
    ):
        current_model(root, "liver", "champoin")


def test_the_latest_model_says_that_it_is_not_registered(trained):
    for which in ("auto", "latest"):
        assert current_model(trained, "liver", which)[1] == "the latest model of liver (not registered)"


def test_the_champion_goes_before_the_latest(trained, save_model, tmp_path):
    from pipeline.registry.models import ModelRegistry
    from pipeline.registry.version import Description

    folder = save_model(tmp_path / "champion", {"liver": 5}, (AIR, LIVER + 1))
    registry = ModelRegistry(trained)
    registry.settle(registry.register("liver", folder, [], Description()), promoted=True)
    names = {}
    for which in ("auto", "champion", "latest"):
        model, names[which] = current_model(trained, "liver", which)
        assert model.config["organ"] == ("liver" if which == "latest" else "champion")
    assert names["auto"] == names["champion"] == "liver version 1 (champion)"


def test_a_version_is_found_by_its_number_or_as_the_challenger(trained, save_model, tmp_path):
    from pipeline.registry.models import ModelRegistry
    from pipeline.registry.version import Description

    registry = ModelRegistry(trained)
    for number, promoted in ((1, True), (2, False), (3, False)):
        folder = save_model(tmp_path / f"version_{number}", {"liver": 5}, (AIR, LIVER + number))
        registry.settle(registry.register("liver", folder, [], Description()), promoted)
    asked = {which: current_model(trained, "liver", which) for which in ("2", "challenger", "champion")}
    found = {which: (model.config["organ"], name) for which, (model, name) in asked.items()}
    assert found == {
        "2": ("version_2", "liver version 2"),
        "challenger": ("version_3", "liver version 3 (challenger)"),
        "champion": ("version_1", "liver version 1 (champion)"),
    }
    with pytest.raises(MissingError, match="there is no version 7 in the registry; there is 1, 2, 3"):
        current_model(trained, "liver", "7")


def test_a_summary_for_machines_is_json_on_stdout(capsys):
    Summary("the model", ["out/a.nii.gz"], {"b.nii": "b.nii is damaged"}, ["1 SEG"]).show(True, 1.5)
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "model": "the model",
        "written": ["out/a.nii.gz"],
        "failed": {"b.nii": "b.nii is damaged"},
        "left_out": ["1 SEG"],
        "exit_code": 0,
    }
    assert err == ""


def test_a_summary_for_people_is_on_stderr(capsys):
    failed = {"b.nii": "b.nii [1, 2] is damaged"}
    Summary("the model in /x[y]", ["out/a.nii.gz"], failed, ["2 SEGs"]).show(False, 1.5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "not labelled: b.nii [1, 2] is damaged" in err
    assert "not looked at: 2 SEGs" in err
    assert "1 label maps by the model in /x[y] in 1.5 s" in err
