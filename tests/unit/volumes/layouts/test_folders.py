import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.layouts.folders import find
from pipeline.volumes.layouts.layout import Declared, Layout
from pipeline.volumes.layouts.volume_files import scan_files


def _touch(source: Path, *names: str) -> Path:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).touch()
    return source


def _describe(source: Path, **content: Any) -> Path:
    _touch(source, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    (source / "dataset.json").write_text(json.dumps(content))
    return source


def _layout(source: Path) -> Layout:
    layout = find(source)
    assert layout is not None
    return layout


def _cases(source: Path) -> dict[str, CaseFiles]:
    return {files.case: files for files in _layout(source).cases}


def _pairs(source: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Files of images and of masks by case, as text; fails where a case has a problem."""
    cases = _layout(source).cases
    assert [case.problem for case in cases if case.problem] == []
    return {
        files.case: (
            [str(path) for paths in files.images for path in paths],
            [str(path) for mask in files.masks for path in mask.paths],
        )
        for files in cases
    }


def _problem(source: Path, case: str) -> str:
    problem = _cases(source)[case].problem
    assert problem is not None
    assert problem.remedy
    assert problem.reason.startswith(f"{case}: ")
    return problem.reason


def test_the_layout_of_the_decathlon(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/b.nii.gz", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    assert _layout(tmp_path).name == "msd"
    assert _pairs(tmp_path) == {
        "a": (["imagesTr/a.nii.gz"], ["labelsTr/a.nii.gz"]),
        "b": (["imagesTr/b.nii.gz"], ["labelsTr/b.nii.gz"]),
    }
    assert list(_pairs(tmp_path)) == ["a", "b"]
    case = _cases(tmp_path)["a"]
    assert (case.patient, case.annotated, case.masks[0].label, case.complete) == ("a", None, None, True)


def test_the_layout_of_nnunet(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/liver_12_0000.nii.gz", "labelsTr/liver_12.nii.gz")
    assert _layout(tmp_path).name == "nnunet"
    assert _pairs(tmp_path) == {"liver_12": (["imagesTr/liver_12_0000.nii.gz"], ["labelsTr/liver_12.nii.gz"])}


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("images", "masks"), ("image", "label"), ("imgs", "masks"), ("scans", "masks")],
)
def test_plain_folders(tmp_path: Path, images: str, labels: str) -> None:
    _touch(tmp_path, f"{images}/a.nii", f"{labels}/a.nii.gz")
    assert _layout(tmp_path).name == "folders"
    assert _pairs(tmp_path) == {"a": ([f"{images}/a.nii"], [f"{labels}/a.nii.gz"])}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ".mha", ".nrrd"])
def test_every_format_of_one_file_is_found(tmp_path: Path, suffix: str) -> None:
    _touch(tmp_path, f"images/a{suffix}", "labels/a.nii.gz")
    assert _cases(tmp_path)["a"].images == ((Path(f"images/a{suffix}"),),)


def test_a_case_number_of_four_digits_is_no_channel(tmp_path: Path) -> None:
    numbers = ("0001", "0004", "0007")
    _touch(tmp_path, *(f"imagesTr/amos_{number}.nii.gz" for number in numbers))
    _touch(tmp_path, *(f"labelsTr/amos_{number}.nii.gz" for number in numbers[:2]))
    assert _layout(tmp_path).name == "msd"
    assert _pairs(tmp_path) == {
        "amos_0001": (["imagesTr/amos_0001.nii.gz"], ["labelsTr/amos_0001.nii.gz"]),
        "amos_0004": (["imagesTr/amos_0004.nii.gz"], ["labelsTr/amos_0004.nii.gz"]),
        "amos_0007": (["imagesTr/amos_0007.nii.gz"], []),
    }


def test_a_case_number_of_four_digits_may_have_a_channel(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/amos_0001_0000.nii.gz", "labelsTr/amos_0001.nii.gz")
    assert _pairs(tmp_path) == {
        "amos_0001": (["imagesTr/amos_0001_0000.nii.gz"], ["labelsTr/amos_0001.nii.gz"])
    }


def test_channels_are_images_of_one_case_in_their_order(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a_0010.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/a_0000.nii.gz")
    _touch(tmp_path, "labelsTr/a.nii.gz")
    images = tuple((Path(f"imagesTr/a_{channel}.nii.gz"),) for channel in ("0000", "0001", "0010"))
    assert _cases(tmp_path)["a"].images == images


def test_a_case_that_lacks_a_channel_is_told_which(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz")
    _touch(tmp_path, "imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz", "labelsTr/c.nii.gz")
    assert "lacks the channel 0000, which other cases have" in _problem(tmp_path, "b")
    assert _cases(tmp_path)["a"].problem is None
    assert _cases(tmp_path)["c"].problem is None, "without any image that is what is wrong"


def test_files_without_a_partner_are_cases_all_the_same(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz", "labelsTr/c.nii.gz")
    assert _pairs(tmp_path) == {
        "a": (["imagesTr/a.nii.gz"], []),
        "b": (["imagesTr/b.nii.gz"], ["labelsTr/b.nii.gz"]),
        "c": ([], ["labelsTr/c.nii.gz"]),
    }


def test_a_link_that_leads_nowhere_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b/liver.nii.gz")
    for name in ("imagesTr/b.nii.gz", "labelsTr/b/spleen.nii.gz"):
        (tmp_path / name).symlink_to(tmp_path / "annex" / "not fetched")
    assert _pairs(tmp_path)["b"] == (
        ["imagesTr/b.nii.gz"],
        ["labelsTr/b/liver.nii.gz", "labelsTr/b/spleen.nii.gz"],
    )


def test_what_dataset_json_does_not_list_is_a_case_all_the_same(tmp_path: Path) -> None:
    _describe(tmp_path, training=[], cases=[])
    assert list(_pairs(tmp_path)) == ["a"]


def test_hidden_and_other_files_are_no_scans(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "imagesTr/._a.nii.gz", "imagesTr/.DS_Store", "imagesTr/notes.txt")
    _touch(tmp_path, "labelsTr/a.nii.gz", "labelsTr/._x.nii.gz", "imagesTr/folder.nii.gz/inside.nii.gz")
    assert list(_pairs(tmp_path)) == ["a"]
    assert [path.name for path in scan_files(tmp_path / "imagesTr")] == ["a.nii.gz"]


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_one_case_in_two_files_is_told_both_names_and_stops_no_other(tmp_path: Path, folder: str) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", f"{folder}/a.nii")
    _touch(tmp_path, "imagesTr/b.nii.gz", "labelsTr/b.nii.gz")
    assert "a.nii and a.nii.gz stand for the same thing" in _problem(tmp_path, "a")
    cases = _cases(tmp_path)
    assert not cases["a"].complete
    assert cases["b"].complete
    assert len(cases["a"].paths) == 3, "all of them belong to the case"


@pytest.mark.parametrize("labels", ["labels", "masks"])
def test_a_folder_of_organs_for_each_case(tmp_path: Path, labels: str) -> None:
    _touch(tmp_path, "images/a.nii.gz", f"{labels}/a/spleen.nii.gz", f"{labels}/a/liver.nii.gz")
    _touch(tmp_path, "images/b.nii.gz", f"{labels}/b/liver.nii.gz")
    layout = _layout(tmp_path)
    a, b = layout.cases
    assert [(mask.label, str(mask.paths[0])) for mask in a.masks] == [
        ("liver", f"{labels}/a/liver.nii.gz"),
        ("spleen", f"{labels}/a/spleen.nii.gz"),
    ]
    assert a.annotated == ("liver", "spleen")
    assert b.annotated == ("liver",), "an organ without a file was not outlined"
    assert layout.declared.labels == {"liver": 1, "spleen": 2}


def test_the_layout_of_totalsegmentator(tmp_path: Path) -> None:
    _touch(tmp_path, "s01/ct.nii.gz", "s01/segmentations/liver.nii.gz", "s01/segmentations/aorta.nii.gz")
    _touch(tmp_path, "s02/ct.nii.gz", "s03/segmentations/liver.nii.gz", "notes/readme.txt", "meta.csv")
    assert _layout(tmp_path).name == "folders"
    assert _pairs(tmp_path) == {
        "s01": (
            ["s01/ct.nii.gz"],
            ["s01/segmentations/aorta.nii.gz", "s01/segmentations/liver.nii.gz"],
        ),
        "s02": (["s02/ct.nii.gz"], []),
        "s03": ([], ["s03/segmentations/liver.nii.gz"]),
    }


def test_two_images_in_the_folder_of_a_case_are_one_too_many(tmp_path: Path) -> None:
    _touch(tmp_path, "s01/ct.nii.gz", "s01/pet.nii.gz", "s01/segmentations/liver.nii.gz")
    assert "ct.nii.gz and pet.nii.gz stand for the same thing" in _problem(tmp_path, "s01")


def test_a_label_map_and_masks_of_organs_may_go_together(tmp_path: Path) -> None:
    _touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "labels/a/liver.nii.gz")
    layout = _layout(tmp_path)
    assert [mask.label for mask in layout.cases[0].masks] == [None, "liver"]
    assert layout.cases[0].annotated is None
    assert layout.declared.labels is None, "the label map has values of its own"


@pytest.mark.parametrize(("head", "body"), [(".hdr", ".img"), (".hdr.gz", ".img.gz"), (".HDR", ".IMG")])
def test_a_pair_of_header_and_image_is_one_volume(tmp_path: Path, head: str, body: str) -> None:
    _touch(tmp_path, f"images/a{head}", f"images/a{body}", "labels/a.nii.gz")
    assert _cases(tmp_path)["a"].images == ((Path(f"images/a{head}"), Path(f"images/a{body}")),)


@pytest.mark.parametrize(("there", "missing"), [("a.hdr", "a.img"), ("a.img", "a.hdr")])
def test_half_a_pair_is_told_what_it_lacks(tmp_path: Path, there: str, missing: str) -> None:
    _touch(tmp_path, f"images/{there}", "labels/a.nii.gz", "images/b.nii", "labels/b.nii")
    assert f"{there}: its other half {missing} is not there" in _problem(tmp_path, "a")
    assert _cases(tmp_path)["b"].complete


def _header(path: Path, data: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mhd":
        path.write_text(f"NDims = 3\nDimSize = 1 1 1\nElementType = MET_SHORT\nElementDataFile = {data}\n")
    else:
        path.write_text(f"NRRD0004\n# a comment\ntype: short\ndata file: {data}\n")


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("data", ["a.raw", "b c.raw", "deeper/a.raw"])
def test_the_data_file_of_a_header_stands_behind_it(tmp_path: Path, suffix: str, data: str) -> None:
    _touch(tmp_path, "labels/a.nii.gz", f"images/{data}")
    _header(tmp_path / f"images/a{suffix}", data)
    case = _cases(tmp_path)["a"]
    assert case.images == ((Path(f"images/a{suffix}"), Path(f"images/{data}")),)
    assert case.complete


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize(
    "data",
    ["/etc/passwd", "../secret.raw", "deeper/../../secret.raw", "http://x.org/a.raw", "file:a.raw", "C:\\a"],
)
def test_a_data_file_outside_of_the_folder_is_not_followed(tmp_path: Path, suffix: str, data: str) -> None:
    _touch(tmp_path, "labels/a.nii.gz", "secret.raw", "images/deeper/b.raw")
    _header(tmp_path / f"images/a{suffix}", data)
    reason = _problem(tmp_path, "a")
    assert "data file outside of its folder" in reason
    assert data not in reason
    assert _cases(tmp_path)["a"].images == ((Path(f"images/a{suffix}"),),)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
@pytest.mark.parametrize("data", ["LIST", "LIST 2", "a%03d.raw 1 9 1"])
def test_several_data_files_are_refused(tmp_path: Path, suffix: str, data: str) -> None:
    _touch(tmp_path, "labels/a.nii.gz")
    _header(tmp_path / f"images/a{suffix}", data)
    assert "in several files" in _problem(tmp_path, "a")


def test_a_data_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    _touch(tmp_path, "labels/a.nii.gz")
    _header(tmp_path / "images/a.mhd", "gone.raw")
    assert "data file gone.raw is not there" in _problem(tmp_path, "a")


def test_a_header_of_nothing_is_a_problem_of_its_case(tmp_path: Path) -> None:
    _touch(tmp_path, "images/a.mhd", "labels/a.nii.gz", "images/b.nii.gz", "labels/b.nii.gz")
    assert "a.mhd cannot be read" in _problem(tmp_path, "a")
    assert _cases(tmp_path)["b"].complete


@pytest.mark.parametrize(
    ("stem", "case"),
    [("Müller (2)", "M_ller__2_"), ("a b", "a_b"), ("-rf", "_rf"), ("a.b-c_1", "a.b-c_1")],
)
def test_names_of_cases_are_names_of_files(tmp_path: Path, stem: str, case: str) -> None:
    _touch(tmp_path, f"images/{stem}.nii.gz", f"labels/{stem}.nii.gz")
    assert _pairs(tmp_path) == {case: ([f"images/{stem}.nii.gz"], [f"labels/{stem}.nii.gz"])}
    assert _cases(tmp_path)[case].patient == case


def test_names_stay_different(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{folder}/a{sign}b.nii.gz" for folder in ("images", "labels") for sign in " _+"))
    names = list(_pairs(tmp_path))
    assert len(names) == 3
    assert "a_b" in names
    assert all(set(name) <= set("ab_-0123456789abcdef") for name in names)
    assert _cases(tmp_path)["a_b"].images == ((Path("images/a_b.nii.gz"),),), "a plain name is kept"


def test_a_very_long_name_leaves_room_for_the_names_of_files_made_of_it(tmp_path: Path) -> None:
    longest, other, short = "a" * 248, "a" * 247 + "b", "a" * 150
    _touch(
        tmp_path, *(f"{kind}/{name}.nii" for kind in ("images", "labels") for name in (longest, other, short))
    )
    cases = _cases(tmp_path)
    assert len(cases) == 3, "they stay different"
    assert short in cases
    assert max(map(len, cases)) <= 160


def test_what_dataset_json_says_of_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.volumes.identity.pseudonym", lambda identifier: f"hash of {identifier}")
    _touch(tmp_path, *(f"{folder}/{case}.nii.gz" for folder in ("images", "labels") for case in "abcd"))
    cases = [
        {"id": "a", "annotated": ["Brainstem", "Larynx"], "patient": "p1"},
        {"image": "images/b.nii.gz", "patient_id": 7},
        {"id": "c", "annotated": [], "subject": ""},
        {"id": "d", "annotated": "Larynx"},
        "nonsense",
    ]
    (tmp_path / "dataset.json").write_text(json.dumps({"cases": cases, "labels": {"Larynx": 1}}))
    found = _cases(tmp_path)
    assert (found["a"].annotated, found["a"].patient) == (("Brainstem", "Larynx"), "hash of p1")
    assert (found["b"].annotated, found["b"].patient) == (None, "hash of 7")
    assert (found["c"].annotated, found["c"].patient) == ((), "c")
    assert "'annotated' is no list" in _problem(tmp_path, "d")


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "Anterior", "2": "Posterior"},
        {"background": 0, "Anterior": 1, "Posterior": 2},
        {"background": "0", "Anterior": "1", "Posterior": "2"},
        {"background": 0.0, "Anterior": 1, "Posterior": 2.0},
    ],
)
def test_labels_are_read_both_ways_round(tmp_path: Path, labels: Any) -> None:
    assert _layout(_describe(tmp_path, labels=labels)).declared.labels == {"Anterior": 1, "Posterior": 2}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"core": 2, "x": "²"}, "gives 'x' the value '²': write a whole number"),
        ({"core": 2, "x": 1.5}, "gives 'x' the value 1.5"),
        ({"core": 2, "x": None}, "gives 'x' the value None"),
        ({"1": "a", "2": "a"}, "gives 'a' the values 1 and 2: give each value a name"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, labels: Any, said: str) -> None:
    with pytest.raises(DataError) as refused:
        _layout(_describe(tmp_path, labels=labels))
    assert said in str(refused.value)


@pytest.mark.parametrize("content", [{}, {"labels": ["liver"]}])
def test_without_a_mapping_of_labels_there_are_none(tmp_path: Path, content: Any) -> None:
    assert _layout(_describe(tmp_path, **content)).declared.labels is None


@pytest.mark.parametrize(
    ("given", "labels", "regions"),
    [
        ({"whole": [1, 2], "core": 2}, {"core": 2, "label_1": 1}, {"whole": (1, 2)}),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [3, 2], "active": [3]},
            {"active": 3, "label_1": 1, "label_2": 2},
            {"whole": (1, 2, 3), "core": (2, 3)},
        ),
        ({"background": [0], "all": [0, 1, 2]}, {"label_1": 1, "label_2": 2}, {"all": (1, 2)}),
        ({"liver": 1, "tumour": 2}, {"liver": 1, "tumour": 2}, {}),
    ],
)
def test_what_nnunet_unites_are_regions_and_their_parts_labels(
    tmp_path: Path, given: Any, labels: Any, regions: Any
) -> None:
    declared = _layout(_describe(tmp_path, labels=given)).declared
    assert (declared.labels, declared.regions) == (labels, regions)


@pytest.mark.parametrize(
    "given",
    [
        {"whole": [1, [2]], "x": 3},
        {"whole": [1, 2], "x": None},
        {"whole": [1, "2b"]},
        {"whole": [True, 2]},
        {"whole": [1, 300]},
        {"core": [2], "necrosis": [2], "whole": [1, 2]},
        {"腫": [1], "whole": [1, 2]},
        {"label_1": [2], "whole": [1, 2]},
        {"1": ["a", "b"]},
    ],
)
def test_lists_that_do_not_name_each_value_once_leave_the_labels_to_the_label_maps(
    tmp_path: Path, given: Any
) -> None:
    assert _layout(_describe(tmp_path, labels=given)).declared == Declared()


def test_regions_are_of_label_maps_not_of_organs_with_masks_of_their_own(tmp_path: Path) -> None:
    source = _touch(tmp_path, "images/a.nii", "labels/a/liver.nii", "labels/a/tumour.nii")
    content = {"labels": {"liver": [1, 2], "tumour": 2, "ignore": 3}}
    (source / "dataset.json").write_text(json.dumps(content))
    assert _layout(source).declared == Declared({"liver": 1, "tumour": 2})


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"liver": 1, "ignore": 2}, 2),
        ({"liver": [1, 2], "Ignore": [3]}, 3),
        ({"background": 0, "ignore": 3}, 3),
        ({"1": "liver", "2": "ignore"}, 2),
        ({"liver": 1, "ignore": 0}, None),
        ({"liver": 1, "ignore": [2, 3]}, None),
    ],
)
def test_what_nnunet_ignores_is_no_label(tmp_path: Path, given: Any, value: int | None) -> None:
    declared = _layout(_describe(tmp_path, labels=given)).declared
    assert declared.unlabelled == value
    assert value not in (declared.labels or {}).values()
    assert "ignore" not in (declared.labels or {})


@pytest.mark.parametrize(
    ("content", "modality"),
    [
        ({"modality": {"0": "CT"}}, "CT"),
        ({"modality": {"0": "MRI"}}, "MR"),
        ({"modality": {"0": "T2"}}, "MR"),
        ({"modality": "ct"}, "CT"),
        ({"channel_names": {"0": "CT"}}, "CT"),
        ({"channel_names": {"0": "FLAIR", "1": "T1"}}, "MR"),
        ({"modality": {"0": "PET"}}, None),
        ({"modality": {}}, None),
        ({"modality": {"0": None}}, None),
        ({}, None),
    ],
)
def test_the_modality_where_dataset_json_says_it(tmp_path: Path, content: Any, modality: str | None) -> None:
    assert _layout(_describe(tmp_path, **content)).modality == modality


def test_without_dataset_json_there_are_neither_labels_nor_modality(tmp_path: Path) -> None:
    layout = _layout(_touch(tmp_path, "images/a.nii", "labels/a.nii"))
    assert (layout.declared.labels, layout.modality, layout.documents) == (None, None, ())


def test_a_copy_of_the_source_needs_dataset_json(tmp_path: Path) -> None:
    assert _layout(_describe(tmp_path)).documents == (Path("dataset.json"),)


@pytest.mark.parametrize("content", [b"{", b"", b"[1, 2]", b'"text"', b"\xff\xfe"])
def test_a_broken_dataset_json_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    _describe(tmp_path)
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json .*mend or remove it"):
        find(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("pictures/a.nii", "labels/a.nii"),
        ("images/a.dcm", "labels/a.dcm"),
        ("images/a.txt", "labels/a.nii"),
        ("s01/ct.nii.gz",),
    ],
)
def test_what_is_laid_out_otherwise_is_left_to_others(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert find(_touch(tmp_path, *names)) is None


@pytest.mark.parametrize(
    ("layout", "files", "folder"),
    [
        ("msd", ["imagesTr/a.nii.gz", "labelsTr/a.nii.gz"], "labelsTr"),
        ("folders", ["images/a.nii.gz", "labels/a/liver.nii.gz"], "labels/a"),
        ("folders", ["a/ct.nii.gz", "a/segmentations/liver.nii.gz"], "a"),
        ("bids", ["sub-1/anat/sub-1_ct.nii.gz", "sub-2/anat/sub-2_ct.nii.gz"], "sub-2"),
        (
            "bids",
            ["sub-1/anat/sub-1_ct.nii.gz", "sub-1/ses-b/anat/sub-1_ses-b_ct.nii.gz"],
            "sub-1/ses-b/anat",
        ),
        ("dicom", ["1/a", "2/a"], "2"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named_and_its_cases_are_not_passed_over(
    tmp_path: Path, closed: Any, layout: Any, files: list[str], folder: str
) -> None:
    _touch(tmp_path, *files)
    closed(tmp_path / folder)
    with pytest.raises(DataError, match=rf"{folder} cannot be read \(Permission denied\): see who may"):
        find_layout(tmp_path, layout)


def test_a_folder_of_no_layout_is_told_by_what_it_holds_and_not_by_its_names(tmp_path: Path) -> None:
    for name in ("MEIER_HANS", "MUELLER_EVA"):
        (tmp_path / name).mkdir()
    for name in ("Meier.txt", "Mueller.Eva", "MEIER"):
        (tmp_path / name).touch()
    told = r"none of the known layouts; it holds 2 folders, 2 of another kind, 1 \.txt: "
    with pytest.raises(DataError, match=told) as error:
        find_layout(tmp_path)
    assert not any(part in str(error.value).removeprefix(str(tmp_path)) for part in ("M", "Eva"))
