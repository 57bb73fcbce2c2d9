import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import read_geometry, read_scan
from pipeline.volumes.readers.rtstruct import rasterise
from pipeline.writers.rtstruct import outlines, write_rtstruct
from pipeline.writers.segmentation import write_segmentation

DATA = os.environ.get("HOUNSFIELD_DATA")
PATIENTS = sorted(Path(DATA, "sarcoma_dicom").glob("*/")) if DATA else []
needs_data = pytest.mark.skipif(DATA is None, reason="HOUNSFIELD_DATA names no folder")
GEOMETRY = Geometry((9, 7, 5), np.diag([-2.0, -1.5, 3.0, 1.0]))
NAMES = {"tumour": 7, "left_kidney": 3, "nowhere": 200}
WRITERS = [
    (write_rtstruct, "StructureSetROISequence", "ROIName"),
    (write_segmentation, "SegmentSequence", "SegmentLabel"),
]


def inside(polygons, shape):
    """The pixels whose centre lies within an odd number of polygons, by Matplotlib."""
    from matplotlib.path import Path as Polygon

    rows, columns = np.indices(shape)
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    odd = np.zeros(len(centres), bool)
    for corners in polygons:
        odd ^= Polygon([*corners, corners[0]], closed=True).contains_points(centres)
    return odd.reshape(shape)


@pytest.fixture
def series(tmp_path, write_ct_series):
    """Files of a CT with this geometry, first slice first."""
    return write_ct_series(tmp_path / "series", GEOMETRY)


@pytest.mark.parametrize("seed", range(8))
def test_outlines_hold_the_pixels_of_the_mask_and_no_other(seed):
    # Holes, islands, pixels that touch at a corner, and all borders.
    mask = np.random.default_rng(seed).random((12, 9)) < 0.5
    np.testing.assert_array_equal(inside(outlines(mask), mask.shape), mask)


def test_a_straight_edge_has_no_corners_on_it():
    mask = np.zeros((20, 20), bool)
    mask[3:18, 4:16] = True
    (corners,) = outlines(mask)
    # A rectangle with its corners cut.
    assert len(corners) == 8


def test_what_is_written_is_read_again_voxel_for_voxel(series, tmp_path):
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[1:6, 1:6, 1:4] = 3
    labels[3, 3, 2] = 0
    labels[6:9, 4:7, 3:5] = 7
    write_rtstruct(tmp_path / "rt.dcm", labels, series[::-1], NAMES, "kidney version 2")
    geometry = read_geometry(*series)
    for name, value in NAMES.items():
        if name != "nowhere":
            found = rasterise(tmp_path / "rt.dcm", name, geometry)
            np.testing.assert_array_equal(found.array, labels == value)


def test_it_refers_to_its_series_and_to_the_slice_of_each_contour(series, tmp_path):
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[2:5, 2:5, 1:3] = 7
    write_rtstruct(tmp_path / "rt.dcm", labels, series, NAMES, "kidney version 2")
    found = pydicom.dcmread(tmp_path / "rt.dcm")
    slices = [pydicom.dcmread(path) for path in series]
    (frame,) = found.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (of_series,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert study.ReferencedSOPInstanceUID == found.StudyInstanceUID == slices[0].StudyInstanceUID
    assert of_series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    uids = [item.ReferencedSOPInstanceUID for item in of_series.ContourImageSequence]
    assert sorted(uids) == sorted(image.SOPInstanceUID for image in slices)
    assert [roi.ROIName for roi in found.StructureSetROISequence] == ["left_kidney", "tumour", "nowhere"]
    assert [len(roi.ContourSequence) for roi in found.ROIContourSequence] == [0, 2, 0]
    heights = {image.SOPInstanceUID: image.ImagePositionPatient[2] for image in slices}
    for contour in found.ROIContourSequence[1].ContourSequence:
        (image,) = contour.ContourImageSequence
        assert set(contour.ContourData[2::3]) == {heights[image.ReferencedSOPInstanceUID]}
    assert (found.PatientID, found.ApprovalStatus) == (slices[0].PatientID, "UNAPPROVED")


@pytest.mark.parametrize("write", [write_rtstruct, write_segmentation])
@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
def test_a_series_that_cannot_be_referred_to_is_told_what_it_lacks(series, tmp_path, keyword, write):
    for path in series:
        image = pydicom.dcmread(path)
        del image[keyword]
        image.save_as(path)
    with pytest.raises(DataError, match=f"lacks {keyword}, by which .* write NIfTI"):
        write(tmp_path / "found.dcm", np.zeros(GEOMETRY.shape, np.uint8), series, NAMES, "a model")


@pytest.mark.parametrize(("write", "sequence", "keyword"), WRITERS)
def test_labels_have_names_in_any_script(series, tmp_path, write, sequence, keyword):
    for path in series:
        slice_ = pydicom.dcmread(path)
        slice_.SpecificCharacterSet, slice_.PatientName = "ISO_IR 100", "Müller^Eva"
        slice_.save_as(path)
    labels = np.zeros(GEOMETRY.shape, np.uint8)
    labels[2:5, 2:5, 2] = 3
    write(tmp_path / "out.dcm", labels, series, {"肝臓": 3, "脾臓": 7}, "a model")
    found = pydicom.dcmread(tmp_path / "out.dcm")
    assert [item[keyword].value for item in found[sequence]] == ["肝臓", "脾臓"]
    assert found.PatientName == "Müller^Eva"


@needs_data
@pytest.mark.parametrize("patient", PATIENTS, ids=lambda folder: folder.name)
def test_a_real_ct_gets_contours_that_come_back_voxel_for_voxel(patient, tmp_path):
    series = sorted((patient / "CT" / "image").glob("*.dcm"))
    scan = read_scan(*series)
    bone = (scan.array > 250).astype(np.uint8)
    write_rtstruct(tmp_path / "rt.dcm", bone, series, {"bone": 1}, "a model")
    found = rasterise(tmp_path / "rt.dcm", "bone", scan.geometry).array
    np.testing.assert_array_equal(found, bone.astype(bool))
