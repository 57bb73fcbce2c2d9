"""Contours of twelve real patients, as voxels of their CT."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.case_files import Mask
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.masks import read_masks
from pipeline.volumes.readers import read_geometry
from pipeline.volumes.readers.rtstruct import names, rasterise

PATIENTS = ("001", "004", "007", "011", "014", "018", "021", "025", "029", "033", "037", "041")
ROI = "GTV_Mass_CT"
ON_AN_EDGE = 1e-6
"""Pixels; a centre this close to an edge may be on either side of it."""


@pytest.fixture(params=PATIENTS)
def patient(request: pytest.FixtureRequest, real_data: Path) -> Path:
    folder: Path = real_data / "sarcoma_dicom" / f"STS_{request.param}" / "CT"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def _geometry(patient: Path) -> Geometry:
    """By the headers, without the pipeline's own reader."""
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in (patient / "image").glob("*.dcm")]
    headers.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    first, last = (np.array(header.ImagePositionPatient, float) for header in (headers[0], headers[-1]))
    rows, columns = (float(number) for number in headers[0].PixelSpacing)
    directions = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[0] * columns, directions[1] * rows
    affine[:3, 2] = (last - first) / (len(headers) - 1)
    affine[:3, 3] = first
    shape = (int(headers[0].Columns), int(headers[0].Rows), len(headers))
    return Geometry(shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)


def _polygons(patient: Path, geometry: Geometry) -> list[tuple[int, NDArray[np.float64]]]:
    """Slice and corners (N, 2) in pixels of every contour, as pydicom itself gives the numbers."""
    dataset = pydicom.dcmread(patient / "mask" / "RS.dcm")
    inverse = np.linalg.inv(geometry.affine)
    polygons = []
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3) * (-1, -1, 1)
        voxels = points @ inverse[:3, :3].T + inverse[:3, 3]
        polygons.append((round(voxels[0, 2]), voxels[:, :2]))
    return polygons


def _distance(voxel: NDArray[np.intp], polygons: list[tuple[int, NDArray[np.float64]]]) -> float:
    """From the centre of a voxel to the nearest edge on its slice, pixels."""
    nearest = np.inf
    for k, corners in polygons:
        if k == voxel[2]:
            along = np.roll(corners, -1, axis=0) - corners
            square = np.maximum((along**2).sum(axis=1), 1e-30)
            share = np.clip(((voxel[:2] - corners) * along).sum(axis=1) / square, 0, 1)
            away = np.linalg.norm(corners + share[:, None] * along - voxel[:2], axis=1)
            nearest = min(nearest, float(away.min()))
    return nearest


def test_every_voxel_is_where_another_programs_test_of_points_has_it(patient: Path) -> None:
    geometry = _geometry(patient)
    region = rasterise(patient / "mask" / "RS.dcm", ROI, geometry)
    assert region.notes == ()
    centres = np.argwhere(np.ones(geometry.shape[:2], bool)).astype(float)
    expected = np.zeros(geometry.shape, bool)
    polygons = _polygons(patient, geometry)
    for k, corners in polygons:
        low, high = corners.min(axis=0) - 1, corners.max(axis=0) + 1
        near = centres[((centres >= low) & (centres <= high)).all(axis=1)]
        outline = Outline(np.vstack([corners, corners[:1]]), closed=True)
        expected[(*near.astype(int).T, k)] ^= outline.contains_points(near)
    assert expected.sum() > 5000
    differing = np.argwhere(region.array != expected)
    assert all(_distance(place, polygons) < ON_AN_EDGE for place in differing)
    assert len(differing) < expected.sum() / 1000


def test_the_pipelines_own_reader_gives_the_same_voxels(patient: Path) -> None:
    path = patient / "mask" / "RS.dcm"
    geometry = read_geometry(*sorted((patient / "image").glob("*.dcm")))
    masks = [rasterise(path, ROI, each).array for each in (geometry, _geometry(patient))]
    assert np.array_equal(*masks)


def test_the_tumour_is_in_the_label_map_of_the_case(patient: Path) -> None:
    geometry = _geometry(patient)
    path = patient / "mask" / "RS.dcm"
    assert names(path) == [ROI]
    mask = Mask((Path("mask/RS.dcm"),))
    masks = read_masks("case", patient, [mask], geometry, {"tumour": 7}, {"tumour": ["gtv_mass*"]})
    assert masks.annotated == ("tumour",)
    assert np.array_equal(masks.array == 7, rasterise(path, ROI, geometry).array)
    with pytest.raises(DataError, match="they hold 'GTV_Mass_CT'"):
        read_masks("case", patient, [mask], geometry, {"tumour": 7}, {})


def test_contours_of_another_patient_are_refused_or_seen_to_miss_the_image(real_data: Path) -> None:
    folder = real_data / "sarcoma_dicom"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    path = folder / "STS_004" / "CT" / "mask" / "RS.dcm"
    with pytest.raises(DataError, match=r"RS.dcm: 'GTV_Mass_CT' lies \d+\.\d mm outside the image"):
        rasterise(path, ROI, _geometry(folder / "STS_001" / "CT"))
