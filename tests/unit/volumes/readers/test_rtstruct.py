from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.region import Region
from pipeline.volumes.readers.rtstruct import Contours, names, rasterise

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM's axes from those of an affine, and back."""
SHAPE = (20, 16, 8)
CLOSED = "CLOSED_PLANAR"


def _geometry(angles: tuple[float, float] = (0, 0), order: tuple[int, ...] = (0, 1, 2)) -> Geometry:
    """A CT as DICOM has it: i to the left, j to the back, k to the head; then turned, by degrees."""
    about_x, about_z = np.radians(angles)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(about_z), -np.sin(about_z)], [np.sin(about_z), np.cos(about_z)]]
    tip = np.eye(4)
    tip[1:3, 1:3] = [[np.cos(about_x), -np.sin(about_x)], [np.sin(about_x), np.cos(about_x)]]
    affine = turn @ tip @ np.diag([-0.9, -1.1, 3.0, 1.0])
    affine[:3, 3] = (31.0, -12.5, 400.0)
    shape = tuple(SHAPE[axis] for axis in order)
    return Geometry((shape[0], shape[1], shape[2]), affine[:, (*order, 3)])


AXIAL = _geometry()


def _patient(voxels: Any, geometry: Geometry = AXIAL) -> NDArray[np.float64]:
    """Voxel indices (N, 3) as DICOM's millimetres (N, 3)."""
    ones = np.ones((len(voxels), 1))
    return (np.hstack([np.asarray(voxels, float), ones]) @ (LPS @ geometry.affine).T)[:, :3]


def _box(
    k: float, low: tuple[float, float] = (2.5, 3.5), high: tuple[float, float] = (9.5, 8.5)
) -> list[Any]:
    (i, j), (x, y) = low, high
    return [(i, j, k), (x, j, k), (x, y, k), (i, y, k)]


def _region(write_rtstruct: Any, tmp_path: Path, contours: list[Any], geometry: Geometry = AXIAL) -> Region:
    path = write_rtstruct(tmp_path / "RS.dcm", [("liver", contours)])
    return rasterise(path, "liver", geometry)


def _refusal(write_rtstruct: Any, tmp_path: Path, contours: Any, geometry: Geometry = AXIAL) -> str:
    with pytest.raises(DataError) as refused:
        _region(write_rtstruct, tmp_path, contours, geometry)
    message = str(refused.value)
    assert message.startswith("RS.dcm")
    assert str(tmp_path) not in message
    assert "Doe" not in message
    assert refused.value.remedy
    return message


def test_regions_are_listed_by_name(write_rtstruct: Any, tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "RS.dcm", [("Liver ", [_patient(_box(1))]), ("GTV", []), ("PTV", None)])
    assert names(path) == ["Liver", "GTV", "PTV"]
    assert Contours(path).empty == {"GTV", "PTV"}


@pytest.mark.parametrize("angles", [(0, 0), (0, 30), (25, 0), (-40, 17)])
def test_voxels_whose_centre_is_inside_are_filled_whichever_way_the_image_lies(
    write_rtstruct: Any, tmp_path: Path, angles: tuple[float, float]
) -> None:
    geometry = _geometry(angles)
    region = _region(write_rtstruct, tmp_path, [_patient(_box(k), geometry) for k in (2, 3, 4)], geometry)
    expected = np.zeros(SHAPE, bool)
    expected[3:10, 4:9, 2:5] = True
    assert np.array_equal(region.array, expected)
    assert region.notes == ()


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
def test_the_slices_may_be_any_axis_of_the_file(
    write_rtstruct: Any, tmp_path: Path, order: tuple[int, ...]
) -> None:
    contours = [_patient(_box(k)) for k in (2, 3)]
    straight = _region(write_rtstruct, tmp_path, contours)
    turned = _region(write_rtstruct, tmp_path, contours, _geometry(order=order))
    assert np.array_equal(turned.array, straight.array.transpose(order))


def test_the_tilt_of_a_gantry_is_followed(write_rtstruct: Any, tmp_path: Path) -> None:
    affine = AXIAL.affine.copy()
    affine[1, 2] = 3 * np.tan(np.radians(20))
    tilted = Geometry(SHAPE, affine)
    region = _region(write_rtstruct, tmp_path, [_patient(_box(k), tilted) for k in (2, 5)], tilted)
    assert region.array[3:10, 4:9, [2, 5]].all()
    assert region.array.sum() == 70


def test_a_contour_within_another_is_a_hole(write_rtstruct: Any, tmp_path: Path) -> None:
    region = _region(write_rtstruct, tmp_path, [_patient(_box(2)), _patient(_box(2, (4.5, 5.5), (6.5, 6.5)))])
    assert region.array.sum() == 35 - 2
    assert not region.array[5:7, 6, 2].any()


def test_a_contour_that_is_there_twice_counts_once(write_rtstruct: Any, tmp_path: Path) -> None:
    region = _region(write_rtstruct, tmp_path, [_patient(_box(2)), _patient(_box(2))])
    assert region.array.sum() == 35
    assert region.notes == ("'liver': contours left out: 1 the same as another",)


def test_slices_left_out_between_contours_stay_empty_and_are_counted(
    write_rtstruct: Any, tmp_path: Path
) -> None:
    region = _region(write_rtstruct, tmp_path, [_patient(_box(k)) for k in (1, 3, 5, 6)])
    assert sorted(set(np.nonzero(region.array)[2])) == [1, 3, 5, 6]
    assert region.notes == ("'liver': 2 of 6 slices from its first contour to its last have none",)


def test_a_contour_is_taken_to_the_nearest_slice_and_the_distance_told(
    write_rtstruct: Any, tmp_path: Path
) -> None:
    region = _region(write_rtstruct, tmp_path, [_patient(_box(k + 0.4)) for k in (2, 3)])
    assert sorted(set(np.nonzero(region.array)[2])) == [2, 3]
    assert region.notes == ("'liver': contours lie up to 1.20 mm beside the slices they were taken to",)


def test_contours_a_rounding_error_beside_their_slice_are_not_worth_a_note(
    write_rtstruct: Any, tmp_path: Path
) -> None:
    corners = _patient(_box(2))
    corners[:, 2] += [0.01, -0.01, 0.01, 0]
    assert _region(write_rtstruct, tmp_path, [corners]).notes == ()


def test_contours_of_a_finer_image_are_refused(write_rtstruct: Any, tmp_path: Path) -> None:
    message = _refusal(write_rtstruct, tmp_path, [_patient(_box(k / 2)) for k in range(1, 12)])
    assert "contours 1.50 mm apart fall on one slice" in message


def test_contours_oblique_to_the_slices_are_refused(write_rtstruct: Any, tmp_path: Path) -> None:
    contours = [_patient(_box(2), _geometry((15, 8)))]
    assert "not parallel to the slices" in _refusal(write_rtstruct, tmp_path, contours)


def test_what_reaches_beyond_the_image_is_cut_and_told(write_rtstruct: Any, tmp_path: Path) -> None:
    contours = [_patient(_box(k, (-5, 3.5), (4.5, 8.5))) for k in range(5, 12)]
    region = _region(write_rtstruct, tmp_path, contours)
    expected = np.zeros(SHAPE, bool)
    expected[:5, 4:9, 5:] = True
    assert np.array_equal(region.array, expected)
    assert region.notes == ("'liver': 7 of 7 contours reach beyond the image and are cut there",)


@pytest.mark.parametrize(
    ("contour", "distance"),
    [(_box(17.5), "30.0"), (_box(-2.5), "6.0"), (_box(2, (29.5, 3.5), (31, 8)), "9.0")],
)
def test_what_lies_wholly_outside_is_refused_with_the_distance(
    write_rtstruct: Any, tmp_path: Path, contour: list[Any], distance: str
) -> None:
    message = _refusal(write_rtstruct, tmp_path, [_patient(contour)])
    assert f"'liver' lies {distance} mm outside the image" in message


def test_contours_around_no_centre_are_told(write_rtstruct: Any, tmp_path: Path) -> None:
    region = _region(write_rtstruct, tmp_path, [_patient(_box(2, (2.2, 3.2), (2.8, 3.8)))])
    assert not region.array.any()
    assert region.notes == ("'liver': holds no centre of a voxel",)


def test_points_and_open_lines_are_left_out_and_counted(write_rtstruct: Any, tmp_path: Path) -> None:
    region = _region(
        write_rtstruct,
        tmp_path,
        [("POINT", _patient([(1, 1, 1)])), _patient(_box(2)), ("OPEN_PLANAR", _patient(_box(3)))],
    )
    assert region.array.sum() == 35
    assert region.notes == ("'liver': contours left out: 1 POINT, 1 OPEN_PLANAR",)


def test_a_region_of_points_alone_is_refused(write_rtstruct: Any, tmp_path: Path) -> None:
    message = _refusal(write_rtstruct, tmp_path, [("POINT", _patient([(1, 1, 1)]))])
    assert "no closed contour (left out: 1 POINT)" in message


@pytest.mark.parametrize("contours", [[], None])
def test_a_region_without_contours_is_refused(write_rtstruct: Any, tmp_path: Path, contours: Any) -> None:
    assert "'liver' has no contours" in _refusal(write_rtstruct, tmp_path, contours)


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        (["1"] * 10, "contour 1 holds 10 coordinates for 3 points"),
        (["1"] * 6, "contour 1 has 2 points"),
        (["1"] * 3, "contour 1 has 1 points"),
        ([], "contour 1 has 0 points"),
        (["1"] * 8 + ["nan"], "no number of millimetres"),
        (["1"] * 8 + ["inf"], "no number of millimetres"),
        (["1"] * 8 + ["1e300"], "no number of millimetres"),
        (["1"] * 8 + ["-1e6"], "no number of millimetres"),
        (["1"] * 8 + ["Doe"], "damaged (ValueError"),
        (["1"] * 8 + [""], "damaged (ValueError"),
    ],
)
def test_damaged_coordinates_are_refused(
    write_rtstruct: Any, tmp_path: Path, corners: list[str], reason: str
) -> None:
    assert reason in _refusal(write_rtstruct, tmp_path, [(CLOSED, corners)])


def test_a_name_that_two_regions_share_is_refused(write_rtstruct: Any, tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "RS.dcm", [("GTV", [_patient(_box(1))])] * 2)
    with pytest.raises(DataError, match="holds 2 regions called 'GTV'"):
        rasterise(path, "GTV", AXIAL)
    with pytest.raises(DataError, match="holds 0 regions called 'PTV'"):
        rasterise(path, "PTV", AXIAL)


def _edited(path: Path, edit: Any) -> Path:
    import pydicom

    dataset = pydicom.dcmread(path)
    edit(dataset)
    dataset.save_as(path)
    return path


def _drop(keyword: str) -> Any:
    return lambda dataset: delattr(dataset, keyword)


def _type_of(kind: str) -> Any:
    return lambda dataset: setattr(
        dataset.ROIContourSequence[0].ContourSequence[0], "ContourGeometricType", kind
    )


def _number(number: int) -> Any:
    return lambda dataset: setattr(dataset.ROIContourSequence[0], "ReferencedROINumber", number)


def _twice(dataset: Any) -> None:
    dataset.ROIContourSequence.append(dataset.ROIContourSequence[0])


def _wrong_count(dataset: Any) -> None:
    dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 5


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_drop("ROIContourSequence"), "has no contours"),
        (_drop("StructureSetROISequence"), "holds no region of interest"),
        (_drop("Modality"), "is of no modality, not RTSTRUCT"),
        (lambda dataset: setattr(dataset, "Modality", "CT"), "is CT, not RTSTRUCT"),
        (lambda dataset: delattr(dataset.ROIContourSequence[0], "ReferencedROINumber"), "is damaged"),
        (lambda dataset: delattr(dataset.ROIContourSequence[0], "ContourSequence"), "has no contours"),
        (_wrong_count, "holds 12 coordinates for 5 points"),
        (_type_of("CLOSED_PLANET"), "contour 1 is of no known type"),
        (_number(7), "numbers of its regions of interest and of their contours do not match"),
        (_twice, "numbers of its regions of interest and of their contours do not match"),
    ],
)
def test_odd_files_are_refused(write_rtstruct: Any, tmp_path: Path, edit: Any, reason: str) -> None:
    path = _edited(write_rtstruct(tmp_path / "RS.dcm", [("liver", [_patient(_box(1))])]), edit)
    with pytest.raises(DataError, match=r"^RS.dcm") as refused:
        rasterise(path, "liver", AXIAL)
    assert reason in str(refused.value)


def test_a_file_that_is_called_after_the_patient_is_not_named(write_rtstruct: Any, tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "RS_jane.dcm", [("liver", [])])
    with pytest.raises(DataError, match=r"^a file of RTSTRUCT: 'liver' has no contours"):
        rasterise(path, "liver", AXIAL)


def _reason(path: Path) -> str:
    """Why a file is refused; empty if it is not."""
    try:
        contours = Contours(path)
        assert contours.region(contours.names[0], AXIAL).array.shape == SHAPE
    except DataError as error:
        return str(error)
    return ""


def test_any_wrong_bytes_are_read_or_refused(
    write_rtstruct: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    path = write_rtstruct(tmp_path / "RS.dcm", [("liver", [_patient(_box(k)) for k in (1, 2, 3)])])
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    reasons = []
    for trial in range(400):
        wrong = bytearray(whole if trial % 4 else whole[: int(generator.integers(len(whole)))])
        for place in generator.integers(0, len(wrong), 3):
            wrong[place] = int(generator.integers(256))
        path.write_bytes(bytes(wrong))
        reasons.append(_reason(path))
    refused = [reason for reason in reasons if reason]
    assert 0 < len(refused) < 400
    # The other, where the wrong bytes make the patient's name one that the file's could give away.
    assert all(reason.startswith(("RS.dcm", "a file of RTSTRUCT")) for reason in refused)
    assert "Doe" not in "".join((*refused, caplog.text, *capfd.readouterr()))


@pytest.mark.parametrize("implicit", [False, True])
def test_a_file_cut_anywhere_is_refused_and_never_read_in_part(
    write_rtstruct: Any, tmp_path: Path, implicit: bool
) -> None:
    import pydicom

    path = write_rtstruct(tmp_path / "RS.dcm", [(name, [_patient(_box(k)) for k in (1, 2)]) for name in "ab"])
    dataset = pydicom.dcmread(path)
    if implicit:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    dataset.save_as(path, implicit_vr=implicit, little_endian=True)
    whole = path.read_bytes()
    assert len(names(path)) == 2
    for length in range(200, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"^RS.dcm"):
            rasterise(path, "a", AXIAL)
    path.write_bytes(whole + bytes(300))
    assert len(names(path)) == 2, "zeros fill up a block of the disk"


def test_a_deeply_nested_file_is_refused(write_rtstruct: Any, tmp_path: Path) -> None:
    path = write_rtstruct(tmp_path / "RS.dcm", [("a", [_patient(_box(1))])])
    whole = path.read_bytes()
    sequence = b"\x0a\x30\x10\x00SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(whole + sequence * 20_000)
    with pytest.raises(DataError, match=r"^RS.dcm"):
        names(path)
