import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.layouts.datalist import find


def _list(source: Path, *training: Any, name: str = "datalist.json", **others: Any) -> Path:
    (source / name).write_text(json.dumps({"training": list(training), **others}))
    return source


def _pair(name: str, **others: Any) -> dict[str, Any]:
    return {"image": f"ct/{name}.nii.gz", "label": f"seg/{name}.nii.gz", **others}


@pytest.mark.parametrize("name", ["datalist.json", "dataset.json", "task.json"])
def test_what_is_listed_is_a_case(tmp_path: Path, touch: Any, cases_of: Any, name: str) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz", "ct/b.nii.gz", "seg/b.nii.gz", "ct/unlisted.nii.gz")
    source = _list(tmp_path, _pair("b", fold=1), name=name, validation=[_pair("a")])
    layout = find_layout(source)
    cases = cases_of(layout)
    assert (layout.name, layout.documents) == ("datalist", (Path(name),))
    assert list(cases) == ["a", "b"]
    assert cases["b"].images == ((Path("ct/b.nii.gz"),),)
    assert [(mask.label, mask.paths) for mask in cases["b"].masks] == [(None, (Path("seg/b.nii.gz"),))]
    assert cases["b"].patient == "b"
    assert all(case.complete for case in cases.values())


def test_several_channels_are_images_of_one_case(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("a/a_0001.nii.gz", "a/a_0000.nii.gz", "seg/a.nii.gz")
    paths = ["a/a_0001.nii.gz", "a/a_0000.nii.gz"]
    case = cases_of(find(_list(tmp_path, {"image": paths, "label": "seg/a.nii.gz"})))["a"]
    assert case.images == ((Path(paths[0]),), (Path(paths[1]),)), "in the order of the list"


def test_labels_modality_patient_and_what_is_annotated(
    tmp_path: Path, touch: Any, cases_of: Any, pseudonyms: None
) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz")
    source = _list(
        tmp_path,
        _pair("a", patient="p1", annotated=["liver"]),
        labels={"liver": 1},
        modality="CT",
        testing=["ct/x.nii.gz", "ct/y.nii.gz"],
    )
    layout = find(source)
    assert layout is not None
    assert (layout.declared.labels, layout.modality) == ({"liver": 1}, "CT")
    assert layout.left_out == ["2 listed as 'testing'"]
    case = cases_of(layout)["a"]
    assert (case.patient, case.annotated) == ("hash of p1", ("liver",))


def test_the_list_of_the_decathlon_leaves_it_to_the_folders(tmp_path: Path, touch: Any) -> None:
    touch("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz")
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    _list(tmp_path, entry, name="dataset.json", test=["./imagesTs/x.nii.gz"])
    assert find(tmp_path) is None
    layout = find_layout(tmp_path)
    assert (layout.name, [case.case for case in layout.cases]) == ("msd", ["a", "b"])


def test_a_list_beside_folders_that_says_something_else_decides(tmp_path: Path, touch: Any) -> None:
    touch("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "clean/a.nii.gz")
    source = _list(tmp_path, {"image": "imagesTr/a.nii.gz", "label": "clean/a.nii.gz"}, name="dataset.json")
    assert find_layout(source).name == "datalist"


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'{"training": []}', b'{"training": 7}', b'{"training": ["a.nii"]}', b'{"cases": [{}]}'],
)
def test_other_json_files_are_no_lists(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    assert find(tmp_path) is None


def test_several_lists_are_refused_by_name_unless_one_is_called_so(tmp_path: Path, touch: Any) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz")
    _list(tmp_path, _pair("a"), name="one.json")
    _list(tmp_path, _pair("a"), name="two.json")
    with pytest.raises(DataError, match=r"one\.json, two\.json each list cases: .*datalist\.json"):
        find(tmp_path)
    assert find(_list(tmp_path, _pair("a"))) is not None


def test_a_listed_file_that_is_absent_is_told(
    tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any
) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz", "ct/b.nii.gz")
    cases = cases_of(find(_list(tmp_path, _pair("a"), _pair("b"), {"image": "ct/a.nii.gz.bak"})))
    assert cases["a"].complete
    assert "b.nii.gz is listed but not there" in problem_of(cases["b"])
    assert cases["b"].paths == [Path("ct/b.nii.gz")], "what is there can be copied"


@pytest.mark.parametrize("path", ["/etc/passwd", "../a.nii.gz", "ct/../../a.nii.gz", "a\0.nii"])
def test_a_path_out_of_the_source_is_told_and_not_followed(
    tmp_path: Path, cases_of: Any, problem_of: Any, path: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "a.nii.gz").touch()
    (case,) = cases_of(find(_list(source, {"image": path, "label": path}))).values()
    reason = problem_of(case)
    assert "leads out of the source" in reason
    assert path not in reason
    assert case.paths == []


def test_an_absolute_path_into_the_source_is_followed(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz")
    entry = {"image": str(tmp_path / "ct/a.nii.gz"), "label": "ct/../seg/a.nii.gz"}
    assert cases_of(find(_list(tmp_path, entry)))["a"].paths == [Path("ct/a.nii.gz"), Path("seg/a.nii.gz")]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("ct/a.nii.gz", "entry 2 of 'training' is no object"),
        ({"image": 7, "label": "seg/a.nii.gz"}, "no path"),
        ({"image": "ct/a.nii.gz", "label": ["x", "y"]}, "not one path"),
        ({"image": "ct/a.nii.gz", "annotated": "liver"}, "'annotated' is no list"),
        ({}, "names no file"),
    ],
)
def test_a_broken_entry_stops_no_other(
    tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any, entry: Any, reason: str
) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz", "ct/good.nii.gz", "seg/good.nii.gz")
    cases = cases_of(find(_list(tmp_path, _pair("good"), entry)))
    assert cases.pop("good").complete
    (case,) = cases.values()
    assert reason in problem_of(case)


def test_images_of_one_name_in_several_folders_are_called_after_the_folder(
    tmp_path: Path, touch: Any, cases_of: Any
) -> None:
    names = ("p1/ct", "p2/ct", "other")
    touch(*(f"{name}{kind}.nii.gz" for name in names for kind in ("", "_seg")))
    entries = [{"image": f"{name}.nii.gz", "label": f"{name}_seg.nii.gz"} for name in names]
    assert list(cases_of(find(_list(tmp_path, *entries)))) == ["other", "p1_ct", "p2_ct"]


def test_an_image_listed_twice_is_one_case(
    tmp_path: Path, touch: Any, cases_of: Any, problem_of: Any
) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz", "ct/b.nii.gz", "seg/b.nii.gz", "seg/b2.nii.gz")
    other = {"image": "ct/b.nii.gz", "label": "seg/b2.nii.gz"}
    cases = cases_of(find(_list(tmp_path, _pair("a"), _pair("b"), other, validation=[_pair("a")])))
    assert cases["a"].complete
    assert "entry 2 of 'training' and entry 3 of 'training'" in problem_of(cases["b"])


def test_a_name_that_the_list_gives_is_the_cases(tmp_path: Path, touch: Any, cases_of: Any) -> None:
    touch("ct/a.nii.gz", "seg/a.nii.gz")
    assert list(cases_of(find(_list(tmp_path, _pair("a", id="Case 1"))))) == ["Case_1"]
