import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.volumes.layouts import find_layout, scan_files


def _touch(source: Path, *names: str) -> Path:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    return source


def _describe(source: Path, **content: Any) -> Path:
    _touch(source, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    (source / "dataset.json").write_text(json.dumps(content))
    return source


def _pairs(source: Path) -> dict[str, tuple[str | None, str | None]]:
    """Image and label by case, as text."""
    return {
        files.case: (str(files.image) if files.image else None, str(files.label) if files.label else None)
        for files in find_layout(source).cases
    }


def test_the_layout_of_the_decathlon(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/b.nii.gz", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    assert find_layout(tmp_path).name == "msd"
    assert _pairs(tmp_path) == {
        "a": ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
        "b": ("imagesTr/b.nii.gz", "labelsTr/b.nii.gz"),
    }
    assert list(_pairs(tmp_path)) == ["a", "b"]


def test_the_layout_of_nnunet(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/liver_12_0000.nii.gz", "labelsTr/liver_12.nii.gz")
    assert find_layout(tmp_path).name == "nnunet"
    assert _pairs(tmp_path) == {"liver_12": ("imagesTr/liver_12_0000.nii.gz", "labelsTr/liver_12.nii.gz")}


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("image", "label"), ("imgs", "masks"), ("scans", "masks")]
)
def test_plain_folders(tmp_path: Path, images: str, labels: str) -> None:
    _touch(tmp_path, f"{images}/a.nii", f"{labels}/a.nii.gz")
    assert find_layout(tmp_path).name == "folders"
    assert _pairs(tmp_path) == {"a": (f"{images}/a.nii", f"{labels}/a.nii.gz")}


def test_a_case_number_of_four_digits_is_no_channel(tmp_path: Path) -> None:
    numbers = ("0001", "0004", "0007")
    _touch(tmp_path, *(f"imagesTr/amos_{number}.nii.gz" for number in numbers))
    _touch(tmp_path, *(f"labelsTr/amos_{number}.nii.gz" for number in numbers[:2]))
    assert find_layout(tmp_path).name == "msd"
    assert _pairs(tmp_path) == {
        "amos_0001": ("imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz"),
        "amos_0004": ("imagesTr/amos_0004.nii.gz", "labelsTr/amos_0004.nii.gz"),
        "amos_0007": ("imagesTr/amos_0007.nii.gz", None),
    }


def test_a_case_number_of_four_digits_may_have_a_channel(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/amos_0001_0000.nii.gz", "labelsTr/amos_0001.nii.gz")
    assert _pairs(tmp_path) == {"amos_0001": ("imagesTr/amos_0001_0000.nii.gz", "labelsTr/amos_0001.nii.gz")}


def test_files_without_a_partner_are_cases_all_the_same(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "labelsTr/c.nii.gz")
    assert _pairs(tmp_path) == {
        "a": ("imagesTr/a.nii.gz", None),
        "b": ("imagesTr/b.nii.gz", "labelsTr/b.nii.gz"),
        "c": (None, "labelsTr/c.nii.gz"),
    }


def test_what_dataset_json_does_not_list_is_a_case_all_the_same(tmp_path: Path) -> None:
    _describe(tmp_path, training=[])
    assert list(_pairs(tmp_path)) == ["a"]


def test_hidden_and_other_files_are_no_scans(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/._a.nii.gz", "imagesTr/.DS_Store", "imagesTr/notes.txt")
    _touch(tmp_path, "labelsTr/a.nii.gz", "labelsTr/._x.nii.gz", "imagesTr/folder.nii.gz/inside.nii.gz")
    assert list(_pairs(tmp_path)) == ["a"]
    assert [path.name for path in scan_files(tmp_path / "imagesTr")] == ["a.nii.gz"]


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_one_case_in_two_files_is_refused_by_both_names(tmp_path: Path, folder: str) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", f"{folder}/a.nii")
    with pytest.raises(DataError, match=r"a\.nii and a\.nii\.gz both belong to case 'a': keep one"):
        find_layout(tmp_path)


def test_several_channels_are_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    with pytest.raises(DataError, match="several channels are not read"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "Anterior", "2": "Posterior"},
        {"background": 0, "Anterior": 1, "Posterior": 2},
        {"background": "0", "Anterior": "1", "Posterior": "2"},
    ],
)
def test_labels_are_read_both_ways_round(tmp_path: Path, labels: Any) -> None:
    assert find_layout(_describe(tmp_path, labels=labels)).labels == {"Anterior": 1, "Posterior": 2}


def test_labels_that_are_no_number_are_left_out(tmp_path: Path) -> None:
    labels = {"core": 2, "x": "²", "²": "y"}
    assert find_layout(_describe(tmp_path, labels=labels)).labels == {"core": 2}


@pytest.mark.parametrize("content", [{}, {"labels": ["liver"]}, {"labels": {"whole": [1, 2], "core": 2}}])
def test_without_a_mapping_of_labels_there_are_none(tmp_path: Path, content: Any) -> None:
    assert find_layout(_describe(tmp_path, **content)).labels is None


@pytest.mark.parametrize(
    ("content", "modality"),
    [
        ({"modality": {"0": "CT"}}, "CT"),
        ({"modality": {"0": "MRI"}}, "MR"),
        ({"modality": {"0": "T2"}}, "MR"),
        ({"modality": "ct"}, "CT"),
        ({"channel_names": {"0": "CT"}}, "CT"),
        ({"channel_names": {"0": "FLAIR"}}, "MR"),
        ({"modality": {"0": "PET"}}, None),
        ({"modality": {}}, None),
        ({"modality": {"0": None}}, None),
        ({}, None),
    ],
)
def test_the_modality_where_dataset_json_says_it(tmp_path: Path, content: Any, modality: str | None) -> None:
    assert find_layout(_describe(tmp_path, **content)).modality == modality


def test_without_dataset_json_there_are_neither_labels_nor_modality(tmp_path: Path) -> None:
    layout = find_layout(_touch(tmp_path, "images/a.nii", "labels/a.nii"))
    assert (layout.labels, layout.modality) == (None, None)


@pytest.mark.parametrize("content", [b"{", b"", b"[1, 2]", b'"text"', b"\xff\xfe"])
def test_a_broken_dataset_json_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    _describe(tmp_path)
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json .*mend or remove it"):
        find_layout(tmp_path)


def test_an_unknown_layout_is_refused_with_what_is_known_and_what_is_there(tmp_path: Path) -> None:
    _touch(tmp_path, "pictures/a.nii", "labels/a.nii")
    with pytest.raises(DataError, match=r"imagesTr/ with labelsTr/.*it holds labels, pictures"):
        find_layout(tmp_path)


def test_an_empty_or_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it holds nothing"):
        find_layout(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_layout(tmp_path / "missing")
    _touch(tmp_path, "images/a.mha", "labels/a.nii")
    with pytest.raises(DataError, match=r"images holds no \.nii\.gz or \.nii file"):
        find_layout(tmp_path)
