from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.segmentation import Segments, names, read_segment

SHAPE = (7, 6, 9)
"""42 pixels a frame: in a binary segmentation frames do not begin with a byte."""


def _geometry(angles: tuple[float, float] = (0, 0)) -> Geometry:
    """A CT as DICOM has it: i to the left, j to the back, k to the head; then turned, by degrees."""
    about_x, about_z = np.radians(angles)
    turn, tip = np.eye(4), np.eye(4)
    turn[:2, :2] = [[np.cos(about_z), -np.sin(about_z)], [np.sin(about_z), np.cos(about_z)]]
    tip[1:3, 1:3] = [[np.cos(about_x), -np.sin(about_x)], [np.sin(about_x), np.cos(about_x)]]
    affine = turn @ tip @ np.diag([-0.9, -1.1, 3.0, 1.0])
    affine[:3, 3] = (31.0, -12.5, 400.0)
    return Geometry(SHAPE, affine)


AXIAL = _geometry()


def _mask(seed: int = 0) -> NDArray[np.bool_]:
    """Anything, on three slices alone."""
    mask = np.zeros(SHAPE, bool)
    mask[..., 2:5] = np.random.default_rng(seed).random((*SHAPE[:2], 3)) < 0.4
    return mask


def _moved(shift: NDArray[Any]) -> Geometry:
    """The axial image, moved by voxels."""
    affine = AXIAL.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ shift
    return Geometry(SHAPE, affine)


def _refusal(path: Path, geometry: Geometry = AXIAL) -> str:
    with pytest.raises(DataError) as refused:
        read_segment(path, "liver", geometry)
    message = str(refused.value)
    assert message.startswith("seg.dcm")
    assert str(path.parent) not in message
    assert "Doe" not in message
    assert refused.value.remedy
    return message


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("omit", [True, False])
@pytest.mark.parametrize("angles", [(0, 0), (25, -40)])
def test_segments_are_read_as_they_were_written(
    write_seg: Any, tmp_path: Path, kind: str, omit: bool, angles: tuple[float, float]
) -> None:
    geometry = _geometry(angles)
    liver = _mask()
    masks = {"liver": liver, "spleen": _mask(1) & ~liver}
    path = write_seg(tmp_path / "seg.dcm", geometry, masks, kind, omit_empty_frames=omit)
    assert names(path) == ["liver", "spleen"]
    for name, mask in masks.items():
        region = read_segment(path, name, geometry)
        assert region.array.dtype == np.bool_
        assert np.array_equal(region.array, mask)
        assert region.notes == ((f"'{name}': a fraction, taken from 0.5 on",) if kind == "FRACTIONAL" else ())


def test_segments_may_overlap(write_seg: Any, tmp_path: Path) -> None:
    masks = {"liver": _mask(), "tumour": _mask() & _mask(1)}
    path = write_seg(tmp_path / "seg.dcm", AXIAL, masks)
    assert all(np.array_equal(read_segment(path, name, AXIAL).array, mask) for name, mask in masks.items())


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_compressed_frames_are_read(write_seg: Any, tmp_path: Path, kind: str) -> None:
    options = {"transfer_syntax_uid": "1.2.840.10008.1.2.5"}
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()}, kind, **options)
    assert np.array_equal(read_segment(path, "liver", AXIAL).array, _mask())


def test_a_fraction_belongs_to_a_segment_from_a_half_on(write_seg: Any, tmp_path: Path) -> None:
    fractions = np.zeros(SHAPE)
    fractions[1:5, 2, 3] = (0.2, 0.49, 0.51, 1)
    path = write_seg(
        tmp_path / "seg.dcm", AXIAL, {"liver": fractions}, "FRACTIONAL", max_fractional_value=200
    )
    assert np.array_equal(read_segment(path, "liver", AXIAL).array, fractions >= 0.5)


def _shuffled(dataset: Any) -> None:
    """The same frames in another order."""
    order = np.random.default_rng(3).permutation(len(dataset.PerFrameFunctionalGroupsSequence))
    frames = [np.array(frame) for frame in dataset.pixel_array]
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    bits = np.packbits(np.concatenate([frames[index].ravel() for index in order]), bitorder="little")
    dataset.PixelData = bits.tobytes() + b"\0" * (bits.size % 2)


def test_the_order_of_the_frames_does_not_matter(write_seg: Any, tmp_path: Path) -> None:
    masks = {"liver": _mask(), "spleen": _mask(1)}
    path = write_seg(tmp_path / "seg.dcm", AXIAL, masks, change=_shuffled)
    assert all(np.array_equal(read_segment(path, name, AXIAL).array, mask) for name, mask in masks.items())


@pytest.mark.parametrize("flips", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_the_image_may_have_its_axes_in_another_order_and_direction(
    write_seg: Any, tmp_path: Path, flips: tuple[int, ...], order: tuple[int, ...]
) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    turn = np.eye(4)
    for axis in flips:
        turn[axis, axis], turn[axis, 3] = -1, SHAPE[axis] - 1
    affine = (AXIAL.affine @ turn)[:, (*order, 3)]
    i, j, k = (SHAPE[axis] for axis in order)
    region = read_segment(path, "liver", Geometry((i, j, k), affine))
    assert np.array_equal(region.array, np.flip(_mask(), flips).transpose(order))


def test_frames_a_little_beside_the_voxels_are_taken_to_them(write_seg: Any, tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    region = read_segment(path, "liver", _moved(np.array([0.3, -0.2, 0.4])))
    assert np.array_equal(region.array, _mask())


@pytest.mark.parametrize(
    ("shift", "reason"),
    [
        ((0.6, 0, 0), "lie up to 0.6 voxels beside"),
        ((0, -20, 0), "lie up to 20.0 voxels beside"),
        ((0, 0, 6), "lie outside the image (3 of 3)"),
        ((0, 0, -5), "lie outside the image (1 of 3)"),
    ],
)
def test_frames_beside_the_image_are_refused(
    write_seg: Any, tmp_path: Path, shift: tuple[float, ...], reason: str
) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    assert reason in _refusal(path, _moved(np.array(shift)))


def test_frames_of_another_size_are_refused(write_seg: Any, tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    assert "have (6, 7) pixels" in _refusal(path, Geometry((8, 6, 9), AXIAL.affine))


@pytest.mark.parametrize("angles", [(20, 0), (0, 20), (0, 45)])
def test_frames_that_are_turned_against_the_image_are_refused(
    write_seg: Any, tmp_path: Path, angles: tuple[float, float]
) -> None:
    path = write_seg(tmp_path / "seg.dcm", _geometry(angles), {"liver": _mask()})
    assert "its frames" in _refusal(path)


@pytest.mark.parametrize("share", [0.5, 2])
def test_frames_further_apart_or_closer_than_slices_are_refused(
    write_seg: Any, tmp_path: Path, share: float
) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    other = Geometry((*SHAPE[:2], 20), AXIAL.affine @ np.diag([1, 1, share, 1]))
    assert "its frames " in _refusal(path, other)


def test_frames_on_every_other_slice_are_refused(write_seg: Any, tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    finer = Geometry((*SHAPE[:2], 20), AXIAL.affine @ np.diag([1, 1, 0.5, 1]))
    assert "are 3.00 mm apart and the slices of the image 1.50 mm" in _refusal(path, finer)


def _on_one_slice(dataset: Any) -> None:
    first, second = dataset.PerFrameFunctionalGroupsSequence[:2]
    second.PlanePositionSequence = first.PlanePositionSequence


def _drop(keyword: str) -> Any:
    return lambda dataset: delattr(dataset, keyword)


def _position(value: list[Any]) -> Any:
    def change(dataset: Any) -> None:
        frame = dataset.PerFrameFunctionalGroupsSequence[0]
        frame.PlanePositionSequence[0].ImagePositionPatient = value

    return change


def _claims_more_frames(dataset: Any) -> None:
    dataset.NumberOfFrames = 1000


def _half_of_the_pixels(dataset: Any) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 4 * 2]


def _one_item_less(dataset: Any) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0]


def _of_no_known_kind(dataset: Any) -> None:
    dataset.SegmentationType = "SURFACE"


def _a_ct(dataset: Any) -> None:
    dataset.Modality = "CT"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_on_one_slice, "lie 2 on one slice (number "),
        (_drop("PerFrameFunctionalGroupsSequence"), "is damaged"),
        (_drop("SharedFunctionalGroupsSequence"), "is damaged"),
        (_drop("SegmentSequence"), "is damaged"),
        (_drop("PixelData"), "is damaged"),
        (_drop("Rows"), "is damaged"),
        (_position([0.0, 0.0]), "is damaged"),
        (_position([0.0, 0.0, 1e30]), "positions of its frames are no numbers"),
        (_claims_more_frames, "are not 1000"),
        (_one_item_less, "are not 3"),
        (_half_of_the_pixels, "is damaged"),
        (_drop("SegmentationType"), "is of no type"),
        (_of_no_known_kind, "is SURFACE"),
        (_a_ct, "is CT, not SEG"),
    ],
)
def test_odd_files_are_refused(write_seg: Any, tmp_path: Path, change: Any, reason: str) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()}, change=change)
    assert reason in _refusal(path)


def test_a_segment_without_frames_is_empty_and_told(write_seg: Any, tmp_path: Path) -> None:
    masks = {"liver": _mask(), "spleen": np.zeros(SHAPE, bool)}
    region = read_segment(write_seg(tmp_path / "seg.dcm", AXIAL, masks), "spleen", AXIAL)
    assert not region.array.any()
    assert region.notes == ("'spleen': holds no voxel",)


def test_the_background_of_a_label_map_is_no_segment(write_seg: Any, tmp_path: Path) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()}, "LABELMAP")
    assert Segments(path).names == ["liver"]


def _reason(path: Path) -> str:
    """Why a file is refused; empty if it is not."""
    try:
        segments = Segments(path)
        assert segments.region(segments.names[0], AXIAL).array.shape == SHAPE
    except DataError as error:
        return str(error)
    return ""


def test_any_wrong_bytes_are_read_or_refused(
    write_seg: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask()})
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    reasons = []
    for trial in range(300):
        wrong = bytearray(whole if trial % 4 else whole[: int(generator.integers(len(whole)))])
        for place in generator.integers(0, len(wrong), 3):
            wrong[place] = int(generator.integers(256))
        path.write_bytes(bytes(wrong))
        reasons.append(_reason(path))
    refused = [reason for reason in reasons if reason]
    assert 0 < len(refused) < 300
    # The other, where the wrong bytes make the patient's name one that the file's could give away.
    assert all(reason.startswith(("seg.dcm", "a file of SEG")) for reason in refused)
    assert "Doe" not in "".join((*refused, caplog.text, *capfd.readouterr()))


def test_a_frame_of_no_segment_is_refused(write_seg: Any, tmp_path: Path) -> None:
    def change(seg: Any) -> None:
        groups = seg.PerFrameFunctionalGroupsSequence[1]
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9

    path = write_seg(tmp_path / "seg.dcm", AXIAL, {"liver": _mask(), "spleen": _mask(1)}, change=change)
    assert "a frame is of no segment it describes" in _refusal(path)
