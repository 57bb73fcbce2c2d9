import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.seg import segread

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import read_geometry, read_scan
from pipeline.volumes.readers.segmentation import Segments
from pipeline.writers.segmentation import write_segmentation

DATA = os.environ.get("HOUNSFIELD_DATA")
PATIENTS = sorted(Path(DATA, "sarcoma_dicom").glob("*/")) if DATA else []
needs_data = pytest.mark.skipif(DATA is None, reason="HOUNSFIELD_DATA names no folder")
NAMES = {"tumour": 7, "left_kidney": 3, "something": 200}
GEOMETRY = Geometry((9, 7, 5), np.diag([-2.0, -1.5, 3.0, 1.0]))


def some_labels(shape, seed=0):
    return np.random.default_rng(seed).choice(np.array([0, 3, 7, 200], np.uint8), shape)


def regions(path, geometry, names):
    """Each segment as a mask (I, J, K), as the project's own reader of segmentations sees it."""
    segments = Segments(path)
    return {name: segments.region(name, geometry).array for name in names}


@pytest.fixture
def series(tmp_path, write_ct_series):
    """Files of a CT with this geometry, first slice first."""
    return write_ct_series(tmp_path / "series", GEOMETRY)


def test_what_is_written_is_read_again_by_this_project_and_by_highdicom(series, tmp_path):
    labels = some_labels(GEOMETRY.shape)
    write_segmentation(tmp_path / "seg.dcm", labels, series[::-1], NAMES, "kidney version 2")
    for name, mask in regions(tmp_path / "seg.dcm", read_geometry(*series), NAMES).items():
        np.testing.assert_array_equal(mask, labels == NAMES[name])
    found = segread(tmp_path / "seg.dcm")
    assert [found.get_segment_description(number).SegmentLabel for number in found.segment_numbers] == [
        "left_kidney",
        "tumour",
        "something",
    ]
    types = [found.get_segment_description(number).segmented_property_type.meaning for number in (1, 2, 3)]
    assert types == ["Kidney", "Mass", "Organ"]
    assert found.SeriesDescription == "Segmentation by kidney version 2"


def test_where_nothing_was_found_the_file_says_so(series, tmp_path):
    write_segmentation(tmp_path / "seg.dcm", np.zeros(GEOMETRY.shape, np.uint8), series, NAMES, "a model")
    assert segread(tmp_path / "seg.dcm").number_of_segments == 3
    assert not segread(tmp_path / "seg.dcm").pixel_array.any()


def rewritten(series, each):
    """The series with elements of each slice changed; None takes one away."""
    for k, path in enumerate(series):
        with pydicom.config.disable_value_validation():
            image = pydicom.dcmread(path)
            for keyword, value in each(k).items():
                if value is None:
                    del image[keyword]
                else:
                    setattr(image, keyword, value)
            image.save_as(path)
    return series


@pytest.mark.parametrize(
    "each",
    [
        pytest.param(lambda k: {"SliceThickness": None}, id="no thickness"),
        pytest.param(lambda k: {"SliceThickness": ""}, id="an empty thickness"),
        pytest.param(lambda k: {"SpacingBetweenSlices": 1}, id="a spacing between slices that is wrong"),
        pytest.param(
            lambda k: {"ImageOrientationPatient": [1, k * 1e-5, 0, -k * 1e-5, 1, 0]}, id="directions rounded"
        ),
        pytest.param(lambda k: {"Modality": None}, id="no modality"),
        pytest.param(lambda k: {"StudyDate": "00000000", "StudyTime": "12:30:00"}, id="no date"),
        pytest.param(lambda k: {"PatientSex": "male", "PatientBirthDate": "unknown"}, id="no sex"),
    ],
)
def test_a_series_that_can_be_read_has_a_segmentation_that_can(series, tmp_path, each):
    rewritten(series, each)
    labels = some_labels(GEOMETRY.shape)
    write_segmentation(tmp_path / "seg.dcm", labels, series, NAMES, "a model")
    for name, mask in regions(tmp_path / "seg.dcm", read_geometry(*series), NAMES).items():
        np.testing.assert_array_equal(mask, labels == NAMES[name])
    assert segread(tmp_path / "seg.dcm").get_volume_geometry().spacing == pytest.approx((3, 1.5, 2))
    with pydicom.config.disable_value_validation():
        image, found = (pydicom.dcmread(path) for path in (series[0], tmp_path / "seg.dcm"))
        for keyword in ("StudyDate", "StudyTime", "PatientSex", "PatientBirthDate", "PatientID"):
            assert found[keyword].value == image[keyword].value


@pytest.mark.parametrize(
    ("characters", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        (["", "ISO 2022 IR 58"], "Zhang^XiaoDong=张^小东"),
        ("ISO_IR 100", "Müller^Eva"),
    ],
)
def test_the_patient_is_called_as_in_the_series_in_any_character_set(series, tmp_path, characters, name):
    rewritten(series, lambda k: {"SpecificCharacterSet": characters, "PatientName": name})
    write_segmentation(tmp_path / "seg.dcm", some_labels(GEOMETRY.shape), series, NAMES, "a model")
    image, found = (pydicom.dcmread(path) for path in (series[0], tmp_path / "seg.dcm"))
    assert (found.PatientName, found.SpecificCharacterSet) == (image.PatientName, characters)


@pytest.mark.parametrize("own", [(), ("PlaneOrientationSequence",), ("PixelMeasuresSequence",)])
def test_an_enhanced_object_may_say_of_each_frame_how_it_lies(tmp_path, dicom, own):
    dataset = dicom.enhanced(order=[2, 0, 3, 1])
    (shared,) = dataset.SharedFunctionalGroupsSequence
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.9765625123, 1 / 3]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [0.6, 0.8, 0, -0.8, 0.6, 0]
    for keyword in own:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame[keyword] = shared[keyword]
        del shared[keyword]
    path = dicom.save(dataset, tmp_path / "e.dcm")
    geometry = read_geometry(path)
    labels = some_labels(geometry.shape)
    write_segmentation(tmp_path / "seg.dcm", labels, [path], NAMES, "a model")
    for name, mask in regions(tmp_path / "seg.dcm", geometry, NAMES).items():
        np.testing.assert_array_equal(mask, labels == NAMES[name])
    spacing = segread(tmp_path / "seg.dcm").get_volume_geometry().spacing
    assert spacing == pytest.approx((3, 0.9765625123, 1 / 3))


def test_enhanced_objects_that_can_have_no_segmentation_are_told_why(tmp_path, dicom):
    twice = dicom.enhanced(5, order=[2, 0, 3, 1, 2])
    for frame in twice.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence = []
    path = dicom.save(twice, tmp_path / "twice.dcm")
    with pytest.raises(DataError, match=r"of 5 frames, 1 of them there twice, .* write NIfTI"):
        write_segmentation(tmp_path / "seg.dcm", some_labels((20, 24, 4)), [path], NAMES, "a model")
    paths = []
    for k in range(3):
        one = dicom.enhanced(1, order=[k])
        paths.append(dicom.save(one, tmp_path / f"{k}.dcm"))
    with pytest.raises(DataError, match="of 3 enhanced objects cannot have one segmentation"):
        write_segmentation(tmp_path / "seg.dcm", some_labels((20, 24, 3)), paths, NAMES, "a model")


@needs_data
@pytest.mark.parametrize("patient", PATIENTS, ids=lambda folder: folder.name)
def test_a_real_ct_gets_a_segmentation_that_others_read_voxel_for_voxel(patient, tmp_path):
    series = sorted((patient / "CT" / "image").glob("*.dcm"))
    scan = read_scan(*series)
    labels = np.where(scan.array > 150, 3, np.where(scan.array > 0, 7, 0)).astype(np.uint8)
    write_segmentation(tmp_path / "seg.dcm", labels, series, {"bone": 3, "soft_tissue": 7}, "a model")
    ours = regions(tmp_path / "seg.dcm", scan.geometry, ["bone", "soft_tissue"])
    found = segread(tmp_path / "seg.dcm")
    by_height = sorted(
        (pydicom.dcmread(path, stop_before_pixels=True) for path in series),
        key=lambda image: float(image.ImagePositionPatient[2]),
    )
    # Its affine may run downwards.
    upwards = scan.geometry.affine[2, 2] > 0
    uids = [image.SOPInstanceUID for image in (by_height if upwards else by_height[::-1])]
    theirs = found.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    for number, (name, value) in enumerate({"bone": 3, "soft_tissue": 7}.items()):
        np.testing.assert_array_equal(ours[name], labels == value)
        np.testing.assert_array_equal(theirs[..., number].transpose(2, 1, 0), labels == value)
    # ITK leaves the pixels of a last byte that is not full as they were in memory (GDCM 3.0).
    frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "seg.dcm"))).ravel()
    expected = pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.ravel()
    assert expected.sum() == (labels > 0).sum()
    whole = expected.size // 8 * 8
    np.testing.assert_array_equal(frames[:whole].astype(bool), expected[:whole].astype(bool))
