from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.cases import Job, Recipe, case_key, class_indices, columns, ingest_case
from pipeline.volumes.layouts import CaseFiles
from pipeline.volumes.store import StoredCase, read_case, write_case

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
    files = CaseFiles("a", "patient_a", Path("images/a.nii.gz"), Path("labels/a.nii.gz"))
    _save(tmp_path / "raw/images/a.nii.gz", _image())
    _save(tmp_path / "raw/labels/a.nii.gz", _label())
    return Job(files, tmp_path / "raw", tmp_path / "volumes", RECIPE)


def _save_label(job: Job, label: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    assert job.files.label is not None
    _save(job.raw / job.files.label, label, affine)


def _save_image(job: Job, image: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    assert job.files.image is not None
    _save(job.raw / job.files.image, image, affine)


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
    assert case.image.shape == case.label.shape == (10, 14, 12)
    np.testing.assert_allclose(case.image, canonical.reshape(10, 14, 12, 2).mean(-1), atol=1e-3)
    assert set(np.unique(case.label)) == {0, 1, 2}
    middle = case.label[4, 14 - 1 - 4, 12 - 1 - 3]
    assert middle == class_indices(LABELS)["tumour"] == 2


def test_without_resampling_the_label_map_keeps_every_voxel(job: Job) -> None:
    ingest_case(replace(job, recipe=replace(RECIPE, spacing=(2.0, 1.0, 0.5))))
    case = read_case(job.volume)
    expected = np.select([_label() == 3, _label() == 7], [1, 2])[::-1, ::-1].T
    assert np.array_equal(case.label, expected)
    assert np.array_equal(case.image, _image()[::-1, ::-1].T)


def test_the_row_tells_the_facts_of_the_original_image(job: Job) -> None:
    row = ingest_case(job)
    assert row["status"] == "accepted"
    assert (row["case"], row["patient"]) == ("a", "patient_a")
    assert (row["image"], row["label"]) == ("images/a.nii.gz", "labels/a.nii.gz")
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
    assert ingest_case(job).keys() == set(names)


def test_an_unchanged_case_is_neither_made_nor_written_again(job: Job) -> None:
    row = ingest_case(job)
    before = job.volume.stat()
    assert ingest_case(job) == row
    assert job.volume.stat().st_mtime_ns == before.st_mtime_ns
    assert job.volume.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    "recipe",
    [
        replace(RECIPE, modality="MR"),
        replace(RECIPE, spacing=(2.0, 1.0, 1.05)),
        replace(RECIPE, hu_offset=-1.0),
        replace(RECIPE, labels={"tumour": 3, "liver": 7}),
        replace(RECIPE, labels={**LABELS, "vessel": 9}),
        replace(RECIPE, labels={"lesion": 7, "liver": 3}),
    ],
)
def test_another_recipe_is_another_volume(job: Job, recipe: Recipe) -> None:
    other = replace(job, recipe=recipe)
    assert case_key(other) != case_key(job)
    ingest_case(job)
    assert ingest_case(other)["key"] == case_key(other)
    assert StoredCase(job.volume).meta["row"]["key"] == case_key(other)


def test_the_order_in_which_labels_are_declared_does_not_matter(job: Job) -> None:
    turned = replace(job, recipe=replace(RECIPE, labels=dict(reversed(LABELS.items()))))
    assert case_key(turned) == case_key(job)


def test_changed_bytes_are_another_volume(job: Job) -> None:
    keys, volumes = [ingest_case(job)["key"]], [job.volume.read_bytes()]
    _save_image(job, _image() + 1)
    keys.append(ingest_case(job)["key"])
    volumes.append(job.volume.read_bytes())
    label = _label()
    label[20:, :, :] = 3
    _save_label(job, label)
    keys.append(ingest_case(job)["key"])
    volumes.append(job.volume.read_bytes())
    assert len(set(keys)) == len(set(volumes)) == 3


def test_changed_code_is_another_volume(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = case_key(job)
    monkeypatch.setattr("pipeline.volumes.cases._code", lambda: "other code")
    assert case_key(job) != before


def test_a_renamed_file_is_found_under_its_new_name(job: Job) -> None:
    ingest_case(job)
    (job.raw / "images").rename(job.raw / "scans")
    moved = replace(job, files=replace(job.files, image=Path("scans/a.nii.gz"), patient="b"))
    row = ingest_case(moved)
    assert row["image"] == "scans/a.nii.gz"
    assert row["patient"] == "b"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_volume_is_made_again(job: Job, share: float) -> None:
    row = ingest_case(job)
    whole = job.volume.read_bytes()
    job.volume.write_bytes(whole[: int(len(whole) * share)])
    assert ingest_case(job) == row
    assert job.volume.read_bytes() == whole


@pytest.mark.parametrize("meta", [{}, {"row": {}}, {"row": {"key": "of another case"}}])
def test_a_volume_of_another_key_is_made_again(job: Job, meta: dict[str, Any]) -> None:
    row = ingest_case(job)
    whole = job.volume.read_bytes()
    write_case(job.volume, np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 3), np.uint8), meta)
    assert ingest_case(job) == row
    assert job.volume.read_bytes() == whole


@pytest.mark.parametrize("value", [1, 255, -3, 2.5])
def test_a_value_that_is_no_label_is_named_with_those_that_are(job: Job, value: float) -> None:
    label = _label().astype(np.float32)
    label[0, 0, 0] = value
    _save_label(job, label)
    error = _refusal(job)
    assert f"holds {value:g}, but declared are 0 and 7 tumour, 3 liver" in error.reason
    assert "ingest.labels" in error.remedy


def test_labels_stored_as_float_are_labels(job: Job) -> None:
    _save_label(job, _label().astype(np.float64))
    assert ingest_case(job)["voxels_tumour"] == (_label() == 7).sum()


def test_a_case_without_a_labelled_voxel_is_accepted(job: Job) -> None:
    _save_label(job, np.zeros(SHAPE, np.uint8))
    row = ingest_case(job)
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
    assert ingest_case(job)["status"] == "accepted"


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
        assert case.image.shape == case.label.shape
        image = np.sort(case.image[case.label == 2])
        assert np.array_equal(image, np.sort(_image()[_label() == 7]))


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_case_without_one_of_its_files_is_refused(job: Job, missing: str) -> None:
    without: dict[str, Any] = {missing: None}
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
    assert job.files.label is not None
    path = job.raw / job.files.label
    path.write_bytes(path.read_bytes()[:-20])
    assert "a.nii.gz is damaged" in _refusal(job).reason


def test_the_offset_of_a_ct_reaches_the_volume_and_the_notes(job: Job) -> None:
    _save_image(job, _image() + 1000)
    assert "hu_offset" in _refusal(job).remedy
    row = ingest_case(replace(job, recipe=replace(RECIPE, hu_offset=-1000.0)))
    assert row["notes"] == "HU offset -1000 added"
    assert row["intensity_min"] == _image().min()


def test_an_mr_is_a_z_score(job: Job) -> None:
    row = ingest_case(replace(job, recipe=replace(RECIPE, modality="MR")))
    assert abs(row["intensity_p50"]) < 1
    assert -5 < row["intensity_min"] < 0 < row["intensity_max"] < 5


def test_class_indices_follow_the_values_not_the_declaration() -> None:
    assert class_indices({"a": 9, "c": 2, "b": 5}) == {"c": 1, "b": 2, "a": 3}
