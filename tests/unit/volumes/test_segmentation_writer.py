import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.seg import segread

from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import read_geometry, read_scan
from pipeline.volumes.readers.segmentation import Segments
from pipeline.volumes.writers.segmentation import write_segmentation

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
