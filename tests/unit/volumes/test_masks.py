from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.case_files import Mask
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.masks import Masks, check_aligned, label_values, read_masks
from pipeline.volumes.names import label_of, normalised, quoted
from pipeline.volumes.readers import read_label_map

SHAPE = (12, 10, 8)
GEOMETRY = Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0]))
LABELS = {"spleen": 4, "liver": 2}
ROIS: dict[str, list[str]] = {}


def _box(low: int, high: int) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[low:high, 2:6, 1:5] = True
    return mask


def _save(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = GEOMETRY.affine) -> Path:
    kind = np.uint8 if array.dtype == bool else array.dtype
    nibabel.save(nibabel.Nifti1Image(array.astype(kind), affine), path)
    return Path(path.name)


def _read(root: Path, *masks: Mask, labels: Any = LABELS, rois: Any = ROIS) -> Masks:
    return read_masks("case_1", root, masks, GEOMETRY, labels, rois)


def _refusal(root: Path, *masks: Mask, labels: Any = LABELS, rois: Any = ROIS) -> DataError:
    with pytest.raises(DataError, match=r"^case_1: ") as refused:
        _read(root, *masks, labels=labels, rois=rois)
    assert str(root) not in str(refused.value)
    assert refused.value.remedy
    return refused.value


def _organs(root: Path, **organs: NDArray[Any]) -> list[Mask]:
    return [Mask((_save(root / f"{name}.nii.gz", array),), name) for name, array in organs.items()]


@pytest.fixture
def contours(write_rtstruct: Any) -> Any:
    """Writes boxes of `_box` as regions of interest: name, low, high, or a name without contours."""

    def write(path: Path, *rois: tuple[Any, ...]) -> Mask:
        def drawn(low: int, high: int) -> list[Any]:
            i, x = low - 0.5, high - 0.5
            # The affine is DICOM's axes with the signs of x and y turned.
            return [[(i, 1.5, k), (x, 1.5, k), (x, 5.5, k), (i, 5.5, k)] for k in (2.0, 4.0, 6.0, 8.0)]

        write_rtstruct(path, [(name, drawn(*ends) if ends else []) for name, *ends in rois])
        return Mask((Path(path.name),))

    return write


# Label maps


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_a_label_map_is_taken_as_it_is(tmp_path: Path, kind: type, suffix: str) -> None:
    array = (2 * _box(1, 4) + 4 * _box(6, 9)).astype(kind)
    masks = _read(tmp_path, Mask((_save(tmp_path / f"label{suffix}", array),)))
    assert masks.array.dtype == np.uint8
    assert np.array_equal(masks.array, array)
    assert masks.annotated == ("liver", "spleen")
    assert masks.notes == ()


def test_values_that_are_not_declared_are_refused_and_the_first_named(tmp_path: Path) -> None:
    array = (np.arange(np.prod(SHAPE)) % 9).reshape(SHAPE).astype(np.uint8)
    error = _refusal(tmp_path, Mask((_save(tmp_path / "label.nii.gz", array),)))
    assert error.reason.endswith("holds 1, 3, 5, 6, 7, but declared are 0 and 4 spleen, 2 liver")
    assert "ingest.labels" in error.remedy


@pytest.mark.parametrize("stray", [0.5, 2.25, -1, 256, 258, 260, 1e9])
def test_values_that_are_no_byte_are_refused(tmp_path: Path, stray: float) -> None:
    array = _box(1, 4).astype(np.float32) * 2
    array[0, 0, 0] = stray
    error = _refusal(tmp_path, Mask((_save(tmp_path / "label.nii.gz", array),)))
    assert f"holds {stray:g}, but" in error.reason


def test_a_label_map_that_was_stored_with_a_scale_is_told_how_it_should_be(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(18.0).reshape(2, 3, 3), np.eye(4))
    # nibabel scales numbers that come as float64: 17 becomes 255.
    image.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / "label.nii")
    labels = {f"label_{value}": value for value in range(1, 18)}
    with pytest.raises(DataError, match=r"holds 3\.0000002, .*: save it again as whole numbers"):
        label_values("a", read_label_map(tmp_path / "label.nii").array, labels)


def test_a_label_map_of_more_than_one_chunk_is_seen_to_its_end() -> None:
    array = np.zeros((300, 200, 40), np.float32, order="F")
    array[0, 0, 0] = array[-1, -1, -1] = 2
    assert np.array_equal(label_values("case_1", array, LABELS), array)
    assert np.array_equal(label_values("case_1", np.ascontiguousarray(array), LABELS), array)
    array[-1, -1, -2] = 3
    with pytest.raises(DataError, match="holds 3, but"):
        label_values("case_1", array, LABELS)


def test_two_label_maps_are_refused(tmp_path: Path) -> None:
    paths = [_save(tmp_path / f"{name}.nii.gz", 2 * _box(1, 4).astype(np.uint8)) for name in "ab"]
    assert "2 masks, and a.nii.gz does not say" in _refusal(tmp_path, *(Mask((p,)) for p in paths)).reason


# Alignment


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    wide = np.zeros((12, 10, 9), np.uint8)
    assert "the image has (12, 10, 8) voxels and the label map (12, 10, 9)" in (
        _refusal(tmp_path, Mask((_save(tmp_path / "label.nii.gz", wide),))).reason
    )
    assert "and the mask 'liver' (12, 10, 9)" in _refusal(tmp_path, *_organs(tmp_path, liver=wide)).reason


def test_a_mask_that_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    affine = GEOMETRY.affine.copy()
    affine[2, 3] = 7
    path = _save(tmp_path / "label.nii.gz", _box(1, 4), affine)
    assert "lie 7.0 mm apart" in _refusal(tmp_path, Mask((path,))).reason
    assert "image and mask 'liver' lie 7.0 mm apart" in _refusal(tmp_path, Mask((path,), "liver")).reason


@pytest.mark.parametrize(("shift", "fits"), [(0.0, True), (0.49, True), (0.51, False)])
def test_half_a_voxel_is_what_image_and_mask_may_lie_apart(shift: float, fits: bool) -> None:
    affine = GEOMETRY.affine.copy()
    affine[0, 3] += shift
    if fits:
        check_aligned("case_1", GEOMETRY, Geometry(SHAPE, affine))
    else:
        with pytest.raises(DataError, match="case_1: image and label map lie"):
            check_aligned("case_1", GEOMETRY, Geometry(SHAPE, affine))


# One file an organ


@pytest.mark.parametrize("value", [1, 255, 7])
def test_files_of_one_organ_each_become_one_label_map(tmp_path: Path, value: int) -> None:
    organs = _organs(tmp_path, Liver=_box(1, 4) * np.uint8(value), spleen=_box(6, 9), kidney=_box(9, 11))
    masks = _read(tmp_path, *organs, labels=LABELS | {"pancreas": 1})
    assert np.array_equal(masks.array, 2 * _box(1, 4) + 4 * _box(6, 9))
    assert masks.annotated == ("liver", "spleen")
    assert masks.notes == ()


def test_an_empty_mask_means_that_somebody_looked(tmp_path: Path) -> None:
    masks = _read(tmp_path, *_organs(tmp_path, liver=_box(0, 0), spleen=_box(6, 9)))
    assert masks.annotated == ("liver", "spleen")
    assert masks.notes == ("'liver': holds no voxel",)
    assert not (masks.array == 2).any()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (_box(1, 4) * np.uint8(1) + _box(6, 9) * np.uint8(2), "0, 1, 2"),
        (_box(1, 4) * np.float32(0.4), "0, 0.4"),
        (_box(1, 4) * np.int16(-1), "-1, 0"),
        (np.linspace(0, 1, int(np.prod(SHAPE)), dtype=np.float32).reshape(SHAPE), "and more"),
    ],
)
def test_a_mask_of_several_values_is_refused(tmp_path: Path, array: NDArray[Any], said: str) -> None:
    assert said in _refusal(tmp_path, *_organs(tmp_path, liver=array)).reason


def test_where_organs_overlap_the_higher_value_wins_and_the_voxels_are_counted(tmp_path: Path) -> None:
    masks = _read(tmp_path, *_organs(tmp_path, spleen=_box(4, 9), liver=_box(1, 5)))
    assert np.array_equal(masks.array, 2 * _box(1, 4) + 4 * _box(4, 9))
    assert masks.notes == ("16 voxels are both liver and spleen: they count as spleen",)


def test_an_organ_within_another_is_kept_if_it_has_the_higher_value(tmp_path: Path) -> None:
    organs = _organs(tmp_path, liver=_box(1, 11), tumour=_box(3, 6))
    masks = _read(tmp_path, *organs, labels={"liver": 1, "tumour": 2})
    assert (masks.array == 2).sum() == _box(3, 6).sum()
    error = _refusal(tmp_path, *organs, labels={"liver": 2, "tumour": 1})
    assert "48 of the 48 voxels of tumour are another organ as well" in error.reason
    assert "the higher value" in error.remedy


def test_an_organ_that_others_cover_by_more_than_half_is_refused(tmp_path: Path) -> None:
    labels = {"liver": 1, "spleen": 2, "kidney": 3}
    half = _organs(tmp_path, liver=_box(0, 4), spleen=_box(2, 8))
    assert _read(tmp_path, *half, labels=labels).annotated == ("liver", "spleen")
    more = _organs(tmp_path, liver=_box(0, 4), spleen=_box(2, 8), kidney=_box(0, 1))
    assert "48 of the 64 voxels of liver" in _refusal(tmp_path, *more, labels=labels).reason


# Contours and segments


def test_regions_of_interest_are_found_by_name(contours: Any, tmp_path: Path) -> None:
    mask = contours(tmp_path / "RS.dcm", ("LIVER ", 1, 4), ("Spleen", 6, 9), ("BODY", 0, 12))
    masks = _read(tmp_path, mask)
    assert np.array_equal(masks.array, 2 * _box(1, 4) + 4 * _box(6, 9))
    assert masks.annotated == ("liver", "spleen")
    assert masks.notes == ()


def test_patterns_find_other_names_whatever_their_case(contours: Any, tmp_path: Path) -> None:
    mask = contours(tmp_path / "RS.dcm", ("Hepar_final", 1, 4), ("Milz", 6, 9))
    masks = _read(tmp_path, mask, rois={"liver": ["hepar*", "leber"]})
    assert np.array_equal(masks.array, 2 * _box(1, 4))
    assert masks.annotated == ("liver",)


def test_regions_that_patterns_ask_for_are_united_and_told(contours: Any, tmp_path: Path) -> None:
    mask = contours(tmp_path / "RS.dcm", ("GTV_1", 1, 4), ("gtv_2", 3, 8), ("PTV", 0, 12))
    masks = _read(tmp_path, mask, labels={"tumour": 1}, rois={"tumour": ["GTV*"]})
    assert np.array_equal(masks.array, _box(1, 8))
    assert masks.notes == ("tumour is the union of 'GTV_1', 'gtv_2'",)


def test_two_regions_of_one_label_are_refused_unless_patterns_asked_for_them(
    contours: Any, tmp_path: Path
) -> None:
    mask = contours(tmp_path / "RS.dcm", ("liver", 1, 4), ("Liver", 3, 8))
    error = _refusal(tmp_path, mask)
    assert "'liver', 'Liver' are all called like the label liver" in error.reason
    assert "ingest.rois.liver" in error.remedy


def test_a_region_that_fits_patterns_of_two_labels_is_refused(contours: Any, tmp_path: Path) -> None:
    mask = contours(tmp_path / "RS.dcm", ("organ", 1, 4))
    error = _refusal(tmp_path, mask, rois={"liver": ["org*"], "spleen": ["*gan"]})
    assert "'organ' may be any of spleen, liver" in error.reason


def test_a_file_in_which_nothing_is_called_like_a_label_is_refused_with_what_it_holds(
    contours: Any, tmp_path: Path
) -> None:
    rois = [(f"ROI {number} {'x' * 50}", 1, 4) for number in range(14)]
    error = _refusal(tmp_path, contours(tmp_path / "RS.dcm", *rois))
    assert "called like a label (spleen, liver); they hold 'ROI 0 xxx" in error.reason
    assert error.reason.endswith("…' and 4 more")
    assert len(error.reason) < 600
    assert "ingest.rois" in error.remedy


def test_a_region_without_contours_was_not_looked_for(contours: Any, tmp_path: Path) -> None:
    masks = _read(tmp_path, contours(tmp_path / "RS.dcm", ("liver", 1, 4), ("spleen",)))
    assert masks.annotated == ("liver",)
    assert masks.notes == ("spleen: 'spleen' has no contours, taken as not looked for",)
    error = _refusal(tmp_path, contours(tmp_path / "RS.dcm", ("liver",), ("BODY", 1, 4)))
    assert "they hold 'liver (no contours)', 'BODY'" in error.reason


def test_what_a_reader_notes_is_passed_on(write_rtstruct: Any, tmp_path: Path) -> None:
    square = [[(0.5, 0.5, k), (3.5, 0.5, k), (3.5, 3.5, k), (0.5, 3.5, k)] for k in (2.0, 6.0)]
    write_rtstruct(tmp_path / "RS.dcm", [("liver", square)])
    masks = _read(tmp_path, Mask((Path("RS.dcm"),)))
    assert masks.notes == ("'liver': 1 of 3 slices from its first contour to its last have none",)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_are_found_by_name(write_seg: Any, tmp_path: Path, kind: str) -> None:
    write_seg(tmp_path / "seg.dcm", GEOMETRY, {"Liver": _box(1, 4), "Spleen": _box(6, 9)}, kind)
    masks = _read(tmp_path, Mask((Path("seg.dcm"),)))
    assert np.array_equal(masks.array, 2 * _box(1, 4) + 4 * _box(6, 9))
    assert masks.annotated == ("liver", "spleen")


def test_a_folder_may_hold_several_segmentations_and_nothing_else(
    write_seg: Any, write_ct_series: Any, tmp_path: Path
) -> None:
    write_seg(tmp_path / "a.dcm", GEOMETRY, {"Liver": _box(1, 4)})
    write_seg(tmp_path / "b.dcm", GEOMETRY, {"Spleen": _box(6, 9)})
    masks = _read(tmp_path, Mask((Path("a.dcm"), Path("b.dcm"))))
    assert np.array_equal(masks.array, 2 * _box(1, 4) + 4 * _box(6, 9))
    assert masks.annotated == ("liver", "spleen")
    slices = [path.relative_to(tmp_path) for path in write_ct_series(tmp_path / "ct", GEOMETRY)]
    error = _refusal(tmp_path, Mask((Path("a.dcm"), *slices)))
    assert "of the 9 DICOM files of its mask, 8 are neither RTSTRUCT nor SEG" in error.reason


def test_a_file_named_after_an_organ_needs_no_name_inside(
    write_seg: Any, contours: Any, tmp_path: Path
) -> None:
    write_seg(tmp_path / "seg.dcm", GEOMETRY, {"Segment_1": _box(1, 4)})
    contours(tmp_path / "RS.dcm", ("ROI", 6, 9))
    masks = _read(tmp_path, Mask((Path("seg.dcm"),), "liver"), Mask((Path("RS.dcm"),), "spleen"))
    assert np.array_equal(masks.array, 2 * _box(1, 4) + 4 * _box(6, 9))


# Names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Left Kidney", "left_kidney"),
        ("  GTV-1 (final)", "gtv_1_final"),
        ("Lebergefäß", "lebergefa"),
        ("3", "label_3"),
        ("肝", ""),
        ("", ""),
    ],
)
def test_names_have_one_plain_form(name: str, plain: str) -> None:
    assert normalised(name) == plain


def test_a_name_called_like_a_label_is_not_for_the_patterns_of_another() -> None:
    patterns = {"tumour": ["gtv*"]}
    assert label_of("case_1", "GTV node", ["tumour", "gtv_node"], patterns) == "gtv_node"
    assert label_of("case_1", "GTV 2", ["tumour", "gtv_node"], patterns) == "tumour"
    assert label_of("case_1", "肝", ["tumour"], patterns) is None


def test_messages_show_a_few_names_and_cut_long_ones() -> None:
    assert quoted(["a", "b"]) == "'a', 'b'"
    assert quoted(["a" * 41]) == f"'{'a' * 39}…'"
    assert quoted([str(number) for number in range(12)]).endswith("'9' and 2 more")
