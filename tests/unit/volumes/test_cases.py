from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError, ResourceError
from pipeline.volumes.calibration import Offset, soft_tissue_peak
from pipeline.volumes.case_files import CaseFiles, Mask, Problem, one_file_each
from pipeline.volumes.cases import (
    Surveyed,
    attempt_case,
    calibrate,
    columns,
    ingest_case,
    quarantined_row,
    row_of,
    survey_case,
)
from pipeline.volumes.geometry import Geometry, to_canonical
from pipeline.volumes.job import Job, Row
from pipeline.volumes.keys import case_key, content_key, hash_case
from pipeline.volumes.masks import Masks
from pipeline.volumes.readers.scan import Origin, Scan
from pipeline.volumes.recipe import Recipe, class_indices
from pipeline.volumes.resampling import resample_image
from pipeline.volumes.store import StoredCase, read_case, write_case
from pipeline.volumes.truth import annotated_labels

LABELS = {"tumour": 7, "liver": 3}
RECIPE = Recipe("CT", LABELS, (2.0, 1.0, 1.0))
SPACING = np.array([0.5, 1.0, 2.0])
"""Millimetres along the file's i, j, k, which lead to the left, the back and the head."""
AFFINE = np.diag([*(SPACING * (-1, -1, 1)), 1.0])
SHAPE = (24, 14, 10)


def _image() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 400, SHAPE).astype(np.int16)


def _label() -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, np.uint8)
    label[2:12, 2:8, 2:6] = 3
    label[4:8, 3:6, 3:5] = 7
    return label


def _save(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """One good case."""
    files = replace(one_file_each("a", Path("images/a.nii.gz"), Path("labels/a.nii.gz")), patient="patient_a")
    _save(tmp_path / "raw/images/a.nii.gz", _image())
    _save(tmp_path / "raw/labels/a.nii.gz", _label())
    return Job(files, tmp_path / "raw", tmp_path / "volumes", RECIPE)


def _save_label(job: Job, label: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    _save(job.raw / job.files.masks[0].paths[0], label, affine)


def _save_image(job: Job, image: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    _save(job.raw / job.files.images[0][0], image, affine)


def _row(job: Job) -> Row:
    return ingest_case(job).row


def _key(job: Job) -> str:
    return case_key(job.files, content_key(job.files, hash_case(job)), job.recipe)


def _refusal(job: Job) -> DataError:
    with pytest.raises(DataError) as refused:
        ingest_case(job)
    assert str(refused.value).startswith("a")
    assert refused.value.remedy
    assert not job.volume.exists()
    return refused.value


def test_the_volume_is_canonical_calibrated_and_at_the_planned_spacing(job: Job) -> None:
    ingest_case(job)
    case = read_case(job.volume)
    # The file's axes are turned to z, y, x; from left-back-head to right-front-head is a flip of two.
    canonical = _image()[::-1, ::-1].T
    assert case.image.shape == (1, *case.label.shape) == (1, 10, 14, 12)
    spacing = (2.0, 1.0, 0.5)
    expected = resample_image(
        np.ascontiguousarray(canonical, np.float32),
        spacing,
        RECIPE.spacing,
        kinds=("linear", "cubic", "cubic"),
    )
    np.testing.assert_allclose(case.image[0], expected, atol=1e-3)
    assert set(np.unique(case.label)) == {0, 1, 2}
    middle = case.label[4, 14 - 1 - 4, 12 - 1 - 3]
    assert middle == class_indices(LABELS)["tumour"] == 2


def test_without_resampling_the_label_map_keeps_every_voxel(job: Job) -> None:
    ingest_case(replace(job, recipe=replace(RECIPE, spacing=(2.0, 1.0, 0.5))))
    case = read_case(job.volume)
    expected = np.select([_label() == 3, _label() == 7], [1, 2])[::-1, ::-1].T
    assert np.array_equal(case.label, expected)
    assert np.array_equal(case.image[0], _image()[::-1, ::-1].T)


def test_the_row_tells_the_facts_of_the_original_image(job: Job) -> None:
    row = _row(job)
    assert row["status"] == "accepted"
    assert (row["case"], row["patient"]) == ("a", "patient_a")
    assert (row["annotated"], row["notes"], row["scanner"], row["stored_peak"]) == ("", "", "", None)
    assert [row[f"shape_{axis}"] for axis in "zyx"] == [10, 14, 24]
    assert [row[f"spacing_{axis}"] for axis in "zyx"] == [2.0, 1.0, 0.5]
    assert row["orientation"] == "LPS"
    assert row["intensity_min"] == _image().min()
    assert row["intensity_max"] == _image().max()
    assert row["intensity_p50"] == pytest.approx(np.median(_image()), abs=1)
    assert row["voxels_liver"] == (_label() == 3).sum()
    assert row["voxels_tumour"] == (_label() == 7).sum()
    assert row["ml_tumour"] == pytest.approx((_label() == 7).sum() / 1000)
    assert row["fg_mean"] == pytest.approx(_image()[_label() > 0].mean(), abs=1e-3)
    assert row["fg_square"] == pytest.approx((_image()[_label() > 0].astype(float) ** 2).mean(), rel=1e-5)


def test_a_row_has_the_columns_of_the_table_and_no_other(job: Job) -> None:
    names = columns(LABELS)
    assert len(set(names)) == len(names)
    # The layout is known to the stage alone.
    assert _row(job).keys() == set(names) - {"layout"}
    assert quarantined_row(job.files, DataError("no", "mend")).keys() <= set(names)


def test_a_row_names_no_file(job: Job) -> None:
    assert "nii" not in str(_row(job)), "paths may name a person"


def test_an_unchanged_case_is_neither_made_nor_written_again(job: Job) -> None:
    row = _row(job)
    before = job.volume.stat()
    assert _row(job) == row
    assert job.volume.stat().st_mtime_ns == before.st_mtime_ns
    assert job.volume.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, modality="MR"),
        replace(RECIPE, spacing=(2.0, 1.0, 1.05)),
        replace(RECIPE, offset=Offset(-1.0)),
        replace(RECIPE, offset=Offset(0.0, "unsigned")),
        replace(RECIPE, rois={"liver": ["hepar*"]}),
        replace(RECIPE, modality="MR", mr_scale="percentiles"),
        replace(RECIPE, labels={"tumour": 3, "liver": 7}),
        replace(RECIPE, labels={**LABELS, "vessel": 9}),
        replace(RECIPE, labels={"lesion": 7, "liver": 3}),
    ],
)
def test_another_recipe_is_another_volume(job: Job, recipe: Recipe) -> None:
    other = replace(job, recipe=recipe)
    assert _key(other) != _key(job)
    ingest_case(job)
    assert _row(other)["key"] == _key(other)
    assert StoredCase(job.volume).meta["row"]["key"] == _key(other)


def test_the_order_in_which_labels_are_declared_does_not_matter(job: Job) -> None:
    turned = replace(job, recipe=replace(RECIPE, labels=dict(reversed(LABELS.items()))))
    assert _key(turned) == _key(job)


def test_changed_bytes_are_another_volume(job: Job) -> None:
    keys, volumes = [_row(job)["key"]], [job.volume.read_bytes()]
    _save_image(job, _image() + 1)
    keys.append(_row(job)["key"])
    volumes.append(job.volume.read_bytes())
    label = _label()
    label[20:, :, :] = 3
    _save_label(job, label)
    keys.append(_row(job)["key"])
    volumes.append(job.volume.read_bytes())
    assert len(set(keys)) == len(set(volumes)) == 3


def test_changed_code_is_another_volume(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _key(job)
    monkeypatch.setattr("pipeline.volumes.keys._code", lambda: "other code")
    assert _key(job) != before


def test_a_renamed_file_is_the_same_case(job: Job) -> None:
    row = _row(job)
    (job.raw / "images").rename(job.raw / "scans")
    moved = replace(job, files=replace(job.files, images=((Path("scans/a.nii.gz"),),)))
    assert ingest_case(moved).hashes.keys() == {Path("scans/a.nii.gz"), Path("labels/a.nii.gz")}
    assert _row(moved) == row


@pytest.mark.parametrize(
    "change",
    [
        {"patient": "b"},
        {"case": "b"},
        {"annotated": ("liver",)},
        {"problem": Problem("a: its list is wrong", "mend it")},
        {"masks": (Mask((Path("labels/a.nii.gz"),), "liver"),)},
    ],
    ids=["patient", "case", "annotated", "problem", "organ"],
)
def test_what_the_source_says_of_a_case_belongs_to_its_content(job: Job, change: dict[str, Any]) -> None:
    hashes = hash_case(job)
    other = replace(job.files, **change)
    assert content_key(other, hashes) != content_key(job.files, hashes)


def test_slices_have_no_order_and_channels_have_one(job: Job) -> None:
    x, y, label = Path("x"), Path("y"), Mask((Path("label"),))
    hashes = {x: "1", y: "2", Path("label"): "3"}
    slices = [CaseFiles("a", "a", ((x, y),), (label,)), CaseFiles("a", "a", ((y, x),), (label,))]
    channels = [CaseFiles("a", "a", ((x,), (y,)), (label,)), CaseFiles("a", "a", ((y,), (x,)), (label,))]
    assert len({content_key(files, hashes) for files in slices}) == 1
    assert len({content_key(files, hashes) for files in [*slices, *channels]}) == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_volume_is_made_again(job: Job, share: float) -> None:
    row = _row(job)
    whole = job.volume.read_bytes()
    job.volume.write_bytes(whole[: int(len(whole) * share)])
    assert _row(job) == row
    assert job.volume.read_bytes() == whole


@pytest.mark.parametrize("meta", [{}, {"row": {}}, {"row": {"key": "of another case"}}])
def test_a_volume_of_another_key_is_made_again(job: Job, meta: dict[str, Any]) -> None:
    row = _row(job)
    whole = job.volume.read_bytes()
    write_case(job.volume, np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 3), np.uint8), meta)
    assert _row(job) == row
    assert job.volume.read_bytes() == whole


@pytest.mark.parametrize(
    ("value", "remedy"),
    [(1, "ingest.labels"), (255, "ingest.labels"), (-3, "ingest.labels"), (2.5, "whole numbers")],
)
def test_a_value_that_is_no_label_is_named_with_those_that_are(job: Job, value: float, remedy: str) -> None:
    label = _label().astype(np.float32)
    label[0, 0, 0] = value
    _save_label(job, label)
    error = _refusal(job)
    assert f"holds {value:g}, but declared are 0 and 7 tumour, 3 liver" in error.reason
    assert remedy in error.remedy


def test_labels_stored_as_float_are_labels(job: Job) -> None:
    _save_label(job, _label().astype(np.float64))
    assert _row(job)["voxels_tumour"] == (_label() == 7).sum()


def test_a_case_without_a_labelled_voxel_is_accepted(job: Job) -> None:
    _save_label(job, np.zeros(SHAPE, np.uint8))
    row = _row(job)
    assert (row["voxels_liver"], row["ml_liver"], row["fg_mean"]) == (0, 0.0, None)


def test_a_label_map_of_another_shape_is_refused(job: Job) -> None:
    _save_label(job, _label()[:-1])
    assert "(24, 14, 10) voxels and the label map (23, 14, 10)" in _refusal(job).reason


@pytest.mark.parametrize(
    "change",
    [
        np.diag([1.0, 1.0, 1.0, 1.0]) + np.array([[0, 0, 0, 5.0], [0] * 4, [0] * 4, [0] * 4]),
        np.diag([-1.0, -1.0, 1.0, 1.0]),
        np.diag([1.1, 1.0, 1.0, 1.0]),
    ],
    ids=["shifted", "flipped", "stretched"],
)
def test_a_label_map_that_lies_elsewhere_is_refused(job: Job, change: NDArray[np.float64]) -> None:
    _save_label(job, _label(), change @ AFFINE)
    assert "mm apart" in _refusal(job).reason


def test_affines_that_differ_by_rounding_are_one(job: Job) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += 1e-3
    _save_label(job, _label(), affine)
    assert _row(job)["status"] == "accepted"


def test_rounding_never_turns_a_label_map_another_way_than_its_image(job: Job) -> None:
    # At 45 degrees the nearest axis is a toss-up, which a rounding error decides.
    for degrees, other in ((45 + 1e-4, 45 - 1e-4), (45 - 1e-4, 45 + 1e-4)):
        turns = []
        for angle in np.radians([degrees, other]):
            turn = np.eye(4)
            turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            turns.append(turn)
        _save_image(job, _image(), turns[0])
        _save_label(job, _label(), turns[1])
        ingest_case(replace(job, recipe=replace(RECIPE, spacing=(1.0, 1.0, 1.0))))
        case = read_case(job.volume)
        assert case.image.shape == (1, *case.label.shape)
        image = np.sort(case.image[0][case.label == 2])
        assert np.array_equal(image, np.sort(_image()[_label() == 7]))


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_case_without_one_of_its_files_is_refused(job: Job, missing: str) -> None:
    without: dict[str, Any] = {f"{missing}s": ()} if missing == "image" else {"masks": ()}
    error = _refusal(replace(job, files=replace(job.files, **without)))
    assert f"without {'an' if missing == 'image' else 'a'} {missing}" in error.reason


def test_a_spacing_that_would_blow_the_volume_up_is_refused(job: Job) -> None:
    affine = np.diag([900.0, 900.0, 900.0, 1.0])
    _save_image(job, _image(), affine)
    _save_label(job, _label(), affine)
    assert (
        "the planned spacing makes it"
        in _refusal(replace(job, recipe=replace(RECIPE, spacing=(0.5,) * 3))).reason
    )


def test_a_damaged_label_map_is_refused_by_its_name(job: Job) -> None:
    path = job.raw / job.files.masks[0].paths[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.nii.gz is damaged" in _refusal(job).reason


def test_the_offset_of_a_ct_reaches_the_volume_and_the_notes(job: Job) -> None:
    _save_image(job, _image() + 1000)
    assert "hu_offset" in _refusal(job).remedy
    row = _row(replace(job, recipe=replace(RECIPE, offset=Offset(-1000.0))))
    assert row["notes"] == "HU offset -1000 added"
    assert row["intensity_min"] == _image().min()
    assert row["stored_peak"] == soft_tissue_peak((_image() + 1000).astype(np.float32))


def test_an_mr_is_a_z_score(job: Job) -> None:
    row = _row(replace(job, recipe=replace(RECIPE, modality="MR")))
    assert abs(row["intensity_p50"]) < 1
    assert -5 < row["intensity_min"] < 0 < row["intensity_max"] < 5


def test_class_indices_follow_the_values_not_the_declaration() -> None:
    assert class_indices({"a": 9, "c": 2, "b": 5}) == {"c": 1, "b": 2, "a": 3}


def _two_channels(job: Job, second: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> Job:
    """The same case with a second MR image."""
    path = Path("images/a_0001.nii.gz")
    _save(job.raw / path, second, affine)
    files = replace(job.files, images=(*job.files.images, (path,)))
    return replace(job, files=files, recipe=replace(RECIPE, modality="MR", channels=2))


def test_two_images_of_a_case_are_two_channels(job: Job) -> None:
    second = np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16)
    both = _two_channels(job, second)
    row = _row(both)
    case = read_case(both.volume)
    assert case.image.shape == (2, 10, 14, 12)
    single = replace(job, recipe=replace(RECIPE, modality="MR"), volumes=job.volumes / "single")
    expected = _row(single)
    assert np.array_equal(case.image[0], read_case(single.volume).image[0])
    assert np.array_equal(case.label, read_case(single.volume).label)
    _save_image(single, second)
    ingest_case(single)
    assert np.array_equal(case.image[1], read_case(single.volume).image[0])
    # Facts are those of the first image.
    differ = {name for name in expected if row[name] != expected[name]}
    assert differ == {"key", "content", "channels"}
    assert (row["channels"], expected["channels"]) == (2, 1)


def test_two_channels_in_one_file_make_the_volume_that_two_files_make(job: Job) -> None:
    second = np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16)
    apart = _two_channels(job, second)
    row, surveyed = _row(apart), survey_case(apart)
    together = replace(job, recipe=apart.recipe, volumes=job.volumes / "together")
    _save_image(together, np.stack([_image(), second], axis=-1))
    told = _row(together)
    assert {name for name in row if row[name] != told[name]} == {"key", "content"}
    expected, case = read_case(apart.volume), read_case(together.volume)
    assert np.array_equal(case.image, expected.image)
    assert np.array_equal(case.label, expected.label)
    assert survey_case(together) == surveyed
    assert surveyed.channels == 2


def test_an_empty_channel_is_refused_by_its_number(job: Job) -> None:
    assert (
        "a: channel 1: all voxels are about 0"
        in _refusal(_two_channels(job, np.zeros(SHAPE, np.int16))).reason
    )


def test_a_case_that_lacks_a_channel_is_refused(job: Job) -> None:
    recipe = replace(RECIPE, modality="MR", channels=2)
    refused = _refusal(replace(job, recipe=recipe))
    assert "it has 1 channel, but 2 are expected" in refused.reason
    assert "add the missing image" in refused.remedy
    both = replace(_two_channels(job, _image()), recipe=replace(RECIPE, modality="MR"))
    assert "it has 2 channels, but 1 is expected" in _refusal(both).reason
    assert "add" not in _refusal(both).remedy


@pytest.mark.parametrize(
    ("shape", "shift", "reason"),
    [(SHAPE, 5.0, "image and channel 1 lie 5.0 mm apart"), ((23, 14, 10), 0.0, "the channel 1 (23, 14, 10)")],
)
def test_channels_that_lie_apart_are_refused(
    job: Job, shape: tuple[int, ...], shift: float, reason: str
) -> None:
    affine = AFFINE.copy()
    affine[0, 3] += shift
    second = _image()[: shape[0]]
    assert reason in _refusal(_two_channels(job, second, affine)).reason


@pytest.mark.parametrize(("said", "expected"), [("MR", "CT"), ("PT", "CT"), ("CT", "MR")])
def test_another_modality_than_expected_is_refused(said: str, expected: str) -> None:
    scan = Scan(_image().astype(np.float32), Geometry(SHAPE, AFFINE), Origin(modality=said))
    images = [to_canonical(scan.array, scan.geometry)]
    with pytest.raises(DataError) as refused:
        calibrate("a", images, [scan], replace(RECIPE, modality=expected))
    assert refused.value.reason == f"a: its header says {said}, but {expected} is expected"
    assert "ingest.modality" in refused.value.remedy


def test_the_expected_modality_is_accepted() -> None:
    scan = Scan(_image().astype(np.float32), Geometry(SHAPE, AFFINE), Origin(modality="CT"))
    (image,), notes = calibrate("a", [to_canonical(scan.array, scan.geometry)], [scan], RECIPE)
    assert np.array_equal(image, to_canonical(scan.array, scan.geometry))
    assert notes == []


def test_what_the_header_says_of_padding_and_of_its_reader_reaches_values_and_notes() -> None:
    array = _image().astype(np.float32)
    array[:12] = -300
    origin = Origin("CT", padding=-300.0, notes=("slices were sorted",))
    scan = Scan(array, Geometry(SHAPE, AFFINE), origin)
    (image,), notes = calibrate("a", [to_canonical(array, scan.geometry)], [scan], RECIPE)
    assert notes[0] == "slices were sorted"
    assert "padding, set to air" in notes[1]
    assert not (image == -300).any()
    assert image.flags.c_contiguous


@pytest.mark.parametrize(
    ("annotated", "column", "ml_tumour"),
    [
        (None, "", 0.0),
        (("liver", "tumour"), "", 0.0),
        (("Liver",), "liver", None),
        (("tumour",), "tumour", 0.0),
        (("liver", "heart"), "liver", None),
    ],
)
def test_of_a_label_that_nobody_looked_for_the_volume_is_unknown(
    job: Job, annotated: tuple[str, ...] | None, column: str, ml_tumour: float | None
) -> None:
    _save_label(job, np.where(_label() == 3, 3, 0).astype(np.uint8))
    row = _row(replace(job, files=replace(job.files, annotated=annotated)))
    assert row["annotated"] == column
    assert (row["ml_tumour"], row["voxels_tumour"]) == (ml_tumour, 0)
    assert row["ml_liver"] > 0


@pytest.mark.parametrize("annotated", [(), ("heart",)])
def test_a_case_in_which_no_label_was_looked_for_is_refused(job: Job, annotated: tuple[str, ...]) -> None:
    error = _refusal(replace(job, files=replace(job.files, annotated=annotated)))
    assert "none of the labels (tumour, liver) was looked for" in error.reason


def _organs(job: Job, **masks: NDArray[Any]) -> Job:
    """The same case with a file an organ; what there is a file of was looked for."""
    for name, mask in masks.items():
        _save(job.raw / f"labels/a/{name}.nii.gz", mask.astype(np.uint8))
    files = tuple(Mask((Path(f"labels/a/{name}.nii.gz"),), name) for name in masks)
    return replace(job, files=replace(job.files, masks=files, annotated=tuple(masks)))


def test_files_of_organs_are_what_one_label_map_would_have_been(job: Job) -> None:
    expected = _row(job)
    label = read_case(job.volume).label
    organs = _organs(job, liver=_label() > 0, tumour=_label() == 7)
    row = _row(organs)
    assert np.array_equal(read_case(organs.volume).label, label)
    assert row["voxels_tumour"] == expected["voxels_tumour"]
    assert row["annotated"] == ""
    both = (_label() == 7).sum()
    assert row["notes"] == f"{both} voxels are both liver and tumour: they count as tumour"


def test_an_organ_without_a_file_was_not_looked_for(job: Job) -> None:
    row = _row(_organs(job, liver=_label() == 3))
    assert (row["annotated"], row["ml_tumour"]) == ("liver", None)


def test_an_organ_whose_name_a_pattern_knows_was_looked_for(job: Job) -> None:
    recipe = replace(RECIPE, rois={"liver": ["hepar*"]})
    organs = replace(_organs(job, hepar_v2=_label() == 3, tumour=_label() == 7), recipe=recipe)
    row = _row(organs)
    assert row["voxels_liver"] == (_label() == 3).sum()
    assert row["annotated"] == ""
    assert row["ml_liver"] > 0


def test_labels_looked_for_are_in_the_order_of_their_values() -> None:
    masks = Masks(_label(), ("liver",), ())
    files = CaseFiles("a", "a", annotated=("TUMOUR", "heart", "liver"))
    assert annotated_labels(files, masks, RECIPE) == ["liver", "tumour"]
    assert annotated_labels(replace(files, annotated=None), masks, RECIPE) == ["liver"]


def test_an_attempt_at_a_good_case_is_its_ingestion(job: Job) -> None:
    attempted = attempt_case(job)
    assert attempted == ingest_case(job)
    assert attempted.row["key"] == _key(job)
    assert attempted.hashes == hash_case(job)


def test_an_attempt_at_a_bad_case_says_why_and_by_which_bytes(job: Job) -> None:
    _save_label(job, _label()[:-1])
    attempted = attempt_case(job)
    row = attempted.row
    assert (row["case"], row["patient"], row["status"]) == ("a", "patient_a", "quarantined")
    assert row["reason"].startswith("a: ")
    assert row["remedy"]
    assert row["content"] == content_key(job.files, attempted.hashes)
    assert row["key"] == _key(job)
    assert not job.volume.exists()


def test_a_case_of_which_nothing_is_there_has_a_key_too(job: Job) -> None:
    files = CaseFiles("b", "b", problem=Problem("b: its list names no file", "name one"))
    row = attempt_case(replace(job, files=files)).row
    assert (row["reason"], row["remedy"]) == ("b: its list names no file", "name one")
    assert row["key"] == case_key(files, content_key(files, {}), RECIPE)


def test_a_missing_file_is_named_and_the_case_has_no_key(job: Job) -> None:
    (job.raw / "images/a.nii.gz").unlink()
    attempted = attempt_case(job)
    assert attempted.row["reason"] == "a: a.nii.gz cannot be read (No such file or directory)"
    assert attempted.row["key"] == ""
    assert attempted.hashes == {}


def test_what_this_machine_cannot_do_is_no_fault_of_the_case(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(what: str, shape: tuple[int, ...], channels: int) -> None:
        raise ResourceError(f"{what} {shape}", "use another machine")

    monkeypatch.setattr("pipeline.volumes.cases.check_memory", no_memory)
    with pytest.raises(ResourceError):
        attempt_case(job)


def test_a_file_whose_hash_is_known_is_not_hashed_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = hash_case(job)
    monkeypatch.setattr("pipeline.volumes.hashes.sha256_file", lambda path: pytest.fail(f"{path} is read"))
    assert hash_case(replace(job, hashes=hashes)) == hashes


def test_a_reason_that_names_no_case_is_given_its_name() -> None:
    files = one_file_each("a", Path("imagesTr/a.nii.gz"), Path("labelsTr/a.nii.gz"))
    for reason in ("its worker died (exit code -9)", "an.nii.gz is damaged", "slice 3 lies on a slope"):
        assert quarantined_row(files, DataError(reason, "mend it"))["reason"] == f"a: {reason}"
    for reason in ("a: no label", "a.nii.gz is damaged", "a_0001.nii.gz is damaged"):
        assert quarantined_row(files, DataError(reason, "mend it"))["reason"] == reason


def test_a_survey_reads_the_header_and_the_voxels_only_when_asked(job: Job) -> None:
    stored = (_image().clip(0) + 900).astype(np.int16)
    _save_image(job, stored)
    header = Surveyed((10, 14, 24), (2.0, 1.0, 0.5), None)
    assert survey_case(job) == header
    peak = soft_tissue_peak(stored.astype(np.float32))
    assert peak is not None
    assert survey_case(replace(job, asks_for_offset=True)) == replace(header, peak=peak)
    path = job.raw / "images/a.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert survey_case(job) == header
    with pytest.raises(DataError):
        survey_case(replace(job, asks_for_offset=True))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_where_soft_tissue_lies_is_known_whatever_the_modality_was(job: Job, modality: str) -> None:
    _save_image(job, (_image().clip(0) + 900).astype(np.int16))
    recipe = replace(RECIPE, modality=modality, offset=Offset(-1000.0, "unsigned"))
    assert _row(replace(job, recipe=recipe))["stored_peak"] is not None


def test_a_volume_that_is_not_there_has_no_row(job: Job) -> None:
    assert row_of(job.volume) is None
    row = _row(job)
    assert row_of(job.volume) == row


def test_a_recipe_comes_back_from_a_plan() -> None:
    recipe = replace(RECIPE, offset=Offset(-1024.0, "unsigned"), rois={"liver": ["hepar*"]}, channels=3)
    assert Recipe.of({"recipe": asdict(recipe) | {"spacing": list(recipe.spacing)}}) == recipe
