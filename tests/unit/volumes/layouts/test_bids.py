import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.volumes.layouts import find_layout
from pipeline.volumes.layouts.bids import find

RAW = "sub-01/anat/sub-01"
MANUAL = "derivatives/manual/sub-01/anat/sub-01"
T1W, DSEG = f"{RAW}_T1w.nii.gz", f"{MANUAL}_dseg.nii.gz"


def _tsv(path: Path, *rows: tuple[object, object], columns: str = "index\tname") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *(f"{index}\t{name}" for index, name in rows)]) + "\n")


def test_an_image_and_the_label_map_among_the_derivatives(touch: Any, cases_of: Any) -> None:
    source = touch(T1W, DSEG, "sub-01/func/sub-01_bold.nii.gz", "participants.tsv")
    (source / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    layout = find_layout(source)
    assert (layout.name, layout.modality, layout.declared.labels) == ("bids", "MR", None)
    assert layout.documents == (Path("dataset_description.json"),)
    case = cases_of(layout)["sub-01"]
    assert (case.patient, case.images) == ("sub-01", ((Path(T1W),),))
    assert [(mask.label, mask.paths) for mask in case.masks] == [(None, (Path(DSEG),))]
    assert case.complete


def test_sessions_are_cases_of_one_patient(touch: Any, cases_of: Any) -> None:
    for session in ("a", "b"):
        inside = f"sub-01/ses-{session}/anat/sub-01_ses-{session}"
        source = touch(f"{inside}_T1w.nii.gz", f"derivatives/manual/{inside}_desc-final_dseg.nii.gz")
    cases = cases_of(find(source))
    assert list(cases) == ["sub-01_ses-a", "sub-01_ses-b"]
    assert {case.patient for case in cases.values()} == {"sub-01"}
    assert all(case.complete for case in cases.values())


def test_masks_of_organs(touch: Any, cases_of: Any) -> None:
    layout = find(touch(T1W, *(f"{MANUAL}_label-{organ}_mask.nii.gz" for organ in ("liver", "aorta"))))
    assert layout is not None
    case = cases_of(layout)["sub-01"]
    assert [mask.label for mask in case.masks] == ["aorta", "liver"]
    assert case.annotated == ("aorta", "liver")
    assert layout.declared.labels == {"aorta": 1, "liver": 2}


@pytest.mark.parametrize(
    "table", [f"{MANUAL}_dseg.tsv", "derivatives/manual/dseg.tsv", "derivatives/manual/desc-final_dseg.tsv"]
)
def test_a_table_names_the_labels(touch: Any, table: str) -> None:
    source = touch(T1W, DSEG)
    _tsv(source / table, (0, "background"), (17, "Left Hippocampus"), (53, "Right Hippocampus"))
    layout = find(source)
    assert layout is not None
    assert layout.declared.labels == {"Left Hippocampus": 17, "Right Hippocampus": 53}
    assert layout.documents == (Path(table),)
    assert layout.cases[0].complete


def test_tables_that_contradict_each_other_are_a_problem_of_the_later(
    touch: Any, cases_of: Any, problem_of: Any
) -> None:
    source = touch(*(path.replace("01", number) for number in ("01", "02", "03") for path in (T1W, DSEG)))
    for number, name in (("01", "left"), ("02", "left"), ("03", "right")):
        _tsv(source / f"{MANUAL}_dseg.tsv".replace("01", number), (1, name))
    cases = cases_of(find(source))
    assert cases["sub-01"].complete
    assert cases["sub-02"].complete
    assert "calls 1 'right', elsewhere 1 is 'left'" in problem_of(cases["sub-03"])


@pytest.mark.parametrize("content", ["", "a\tb\n1\t2\n", "index\tname\nx\ty\n", "index\tname\n1\n"])
def test_a_broken_table_is_a_problem_of_its_case(
    touch: Any, cases_of: Any, problem_of: Any, content: str
) -> None:
    source = touch(T1W, DSEG)
    (source / f"{MANUAL}_dseg.tsv").write_text(content)
    case = cases_of(find(source))["sub-01"]
    if content:
        assert "is no table with the columns index" in problem_of(case)
    else:
        assert case.complete, "an empty table names nothing"


@pytest.mark.parametrize(
    ("drawn", "chosen"),
    [
        ("space-T1w_dseg", "T1w"),
        ("space-T2w_dseg", "T2w"),
        ("acq-fine_dseg", "acq-fine_FLAIR"),
        ("acq-fine_space-orig_desc-x_dseg", "acq-fine_FLAIR"),
        ("space-T2w_label-liver_mask", "T2w"),
    ],
)
def test_of_several_images_space_or_entities_choose(
    touch: Any, cases_of: Any, drawn: str, chosen: str
) -> None:
    images = [f"{RAW}_{name}.nii.gz" for name in ("T1w", "T2w", "acq-fine_FLAIR")]
    case = cases_of(find(touch(*images, f"{MANUAL}_{drawn}.nii.gz")))["sub-01"]
    assert case.images == ((Path(f"{RAW}_{chosen}.nii.gz"),),)
    assert case.complete


def test_the_plain_image_is_the_one_of_a_plain_label_map(touch: Any, cases_of: Any) -> None:
    case = cases_of(find(touch(T1W, f"{RAW}_acq-fine_T1w.nii.gz", DSEG)))["sub-01"]
    assert case.images == ((Path(T1W),),)


def test_images_among_which_nothing_chooses_are_named(touch: Any, cases_of: Any, problem_of: Any) -> None:
    case = cases_of(find(touch(T1W, f"{RAW}_T2w.nii.gz", DSEG)))["sub-01"]
    reason = problem_of(case)
    assert "manual/sub-01_dseg.nii.gz may belong to any of sub-01_T1w.nii.gz and sub-01_T2w.nii.gz" in reason


@pytest.mark.parametrize("drawn", ["space-MNI152NLin6Asym_dseg", "acq-other_dseg", "space-T2w_dseg"])
def test_what_was_drawn_on_something_else_is_told(
    touch: Any, cases_of: Any, problem_of: Any, drawn: str
) -> None:
    case = cases_of(find(touch(T1W, f"{MANUAL}_{drawn}.nii.gz")))["sub-01"]
    assert "was drawn on none of sub-01_T1w.nii.gz" in problem_of(case)


def test_masks_drawn_on_different_images_are_told(touch: Any, cases_of: Any, problem_of: Any) -> None:
    masks = [f"{MANUAL}_space-{space}_label-{space}_mask.nii.gz" for space in ("T1w", "T2w")]
    case = cases_of(find(touch(T1W, f"{RAW}_T2w.nii.gz", *masks)))["sub-01"]
    assert "was drawn on none of" in problem_of(case)


def test_two_label_maps_are_told_with_their_derivatives(touch: Any, cases_of: Any, problem_of: Any) -> None:
    other = DSEG.replace("manual", "automatic")
    reason = problem_of(cases_of(find(touch(T1W, DSEG, other)))["sub-01"])
    assert "automatic/sub-01_dseg.nii.gz and manual/sub-01_dseg.nii.gz are 2 label maps" in reason


def test_sessions_without_partner_are_cases_all_the_same(touch: Any, cases_of: Any) -> None:
    source = touch(T1W, DSEG.replace("01", "02"), "sub-03/dwi/sub-03_dwi.nii.gz")
    cases = cases_of(find(source))
    assert list(cases) == ["sub-01", "sub-02"]
    assert (cases["sub-01"].masks, cases["sub-01"].problem) == ((), None)
    assert (cases["sub-02"].images, cases["sub-02"].problem) == ((), None)


@pytest.mark.parametrize(
    ("suffixes", "modality"), [(("ct", "CT"), "CT"), (("T1w", "T2w"), "MR"), (("T1w", "CT"), None)]
)
def test_the_suffix_tells_the_modality(touch: Any, suffixes: tuple[str, ...], modality: str | None) -> None:
    layout = find(touch(*(f"{RAW}_{suffix}.nii.gz" for suffix in suffixes)))
    assert layout is not None
    assert layout.modality == modality


@pytest.mark.parametrize(
    "names",
    [
        ("sub-01/ct.nii.gz", "sub-01/segmentations/liver.nii.gz"),
        ("derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz",),
        ("images/sub-01.nii.gz", "labels/sub-01.nii.gz"),
        ("sub-01/anat/notes.txt",),
    ],
)
def test_what_is_laid_out_otherwise_is_left_to_others(touch: Any, names: tuple[str, ...]) -> None:
    assert find(touch(*names)) is None
