import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from pipeline.errors import DataError, ParamsError
from pipeline.onboarding.labels import labels_in, parse_labels
from pipeline.onboarding.source import NewOrgan, look
from pipeline.volumes.case_files import one_file_each
from pipeline.volumes.identity import fingerprint, pseudonym

QUIET = Console(quiet=True)
SHAPE = (4, 5, 6)


def _save(path: Path, array: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def _source(folder: Path, *, air: float = -1000, values: tuple[int, ...] = (1, 2), cases: int = 2) -> Path:
    """Two cases in the msd layout; the images' lowest value is `air`."""
    for case in range(cases):
        image = np.full(SHAPE, 40, np.int16)
        image[0] = int(air)
        label = np.zeros(SHAPE, np.uint8)
        label[1, 0, : len(values)] = values
        _save(folder / "imagesTr" / f"case_{case}.nii.gz", image)
        _save(folder / "labelsTr" / f"case_{case}.nii.gz", label)
    return folder


def _organs(source: Path, **organs: int) -> None:
    """A file an organ for the first cases, as many as said, in place of their label maps."""
    for organ, cases in organs.items():
        for case in range(cases):
            (source / "labelsTr" / f"case_{case}.nii.gz").unlink(missing_ok=True)
            mask = np.zeros(SHAPE, np.uint8)
            mask[1, 0, 0] = 1
            _save(source / "labelsTr" / f"case_{case}" / f"{organ}.nii.gz", mask)


def _describe(source: Path, **content: object) -> None:
    (source / "dataset.json").write_text(json.dumps(content))


def _look(source: Path, modality: str | None = None, labels: dict[str, int] | None = None) -> NewOrgan:
    return look("x", source, modality, labels, QUIET)


def test_dataset_json_names_labels_and_modality(tmp_path: Path) -> None:
    source = _source(tmp_path, air=0)
    _describe(
        source, modality={"0": "MRI"}, labels={"0": "background", "2": "Right Kidney", "1": "Niere, große"}
    )
    organ = _look(source)
    assert organ.modality == "MR"
    assert list(organ.labels.items()) == [("niere_groe", 1), ("right_kidney", 2)]
    assert Path("dataset.json") in organ.files


def test_what_is_given_outweighs_dataset_json(tmp_path: Path) -> None:
    source = _source(tmp_path)
    _describe(source, modality={"0": "CT"}, labels={"1": "a", "2": "b"})
    organ = _look(source, "mri", {"Both": 1})
    assert organ.modality == "MR"
    assert organ.labels == {"both": 1}


def test_regions_of_nnunet_unite_the_labels_of_their_values(tmp_path: Path) -> None:
    source = _source(tmp_path)
    regions = {"Whole Tumour": [1, 2], "Core": [2], "腫": [1, 2], "more": [1, 9]}
    _describe(source, modality={"0": "CT"}, labels={"background": 0} | regions)
    organ = _look(source)
    assert organ.labels == {"label_1": 1, "core": 2, "label_9": 9}
    assert organ.regions == {"whole_tumour": ["label_1", "core"], "more": ["label_1", "label_9"]}
    assert "judged as one besides (evaluate.regions): whole_tumour (label_1, core)" in organ.lines()[1]
    assert "not judged as one: 腫 (the name is taken" in organ.lines()[2]
    # Of labels that were named by hand, those that have all of a region's values.
    assert _look(source, labels={"Rim": 1, "Core": 2}).regions == {"whole_tumour": ["rim", "core"]}


def test_a_region_whose_name_is_taken_is_left_out_and_told(tmp_path: Path) -> None:
    source = _source(tmp_path)
    regions = {"kidney": [1, 2, 3], "masses": [2, 3], "Masses ": [1, 2], "mean": [1, 3], "m" * 101: [1, 2]}
    _describe(source, modality={"0": "CT"}, labels={"background": 0, "tumor": 2} | regions)
    organ = _look(source, labels={"kidney": 1, "tumor": 2, "cyst": 3})
    assert organ.regions == {"masses": ["tumor", "cyst"]}
    assert organ.regions_left_out == ["kidney", "Masses ", "mean", "m" * 101]


def test_what_nnunet_ignores_is_no_label_but_was_not_looked_at(tmp_path: Path) -> None:
    source = _source(tmp_path, values=(1, 3))
    _describe(source, modality={"0": "CT"}, labels={"background": 0, "liver": 1, "ignore": 3})
    organ = _look(source)
    assert organ.labels == {"liver": 1}
    assert organ.sections["ingest"]["annotation"] == {"kind": "sparse", "unlabelled": 3}
    assert "voxels of the value 3 were not looked at (ingest.annotation)" in organ.lines()
    # Those who name it know better.
    named = _look(source, labels={"liver": 1, "bile": 3})
    assert (named.labels, named.unlabelled) == ({"liver": 1, "bile": 3}, None)
    assert look("x", source, None, {"liver": 1}, QUIET, present=True).unlabelled == 3
    _describe(source, modality={"0": "CT"}, labels={"background": 0, "ignore": 3})
    assert _look(source).labels == {"label_1": 1}


def test_a_source_is_written_as_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.onboarding.source.memory_to_plan_for", lambda: 8)
    source = _source(tmp_path)
    _describe(source, modality={"0": "CT"}, labels={"liver": 1, "both": [1, 2]})
    assert _look(source).sections == {
        "ingest": {"modality": "CT", "labels": {"liver": 1, "label_2": 2}, "train_memory_gb": 8},
        "train": {"steps": "auto"},
        "evaluate": {"regions": {"both": ["liver", "label_2"]}},
    }


def test_without_dataset_json_labels_are_the_values_found(tmp_path: Path) -> None:
    source = _source(tmp_path, values=(3, 200))
    _save(source / "labelsTr" / "case_1.nii.gz", np.full(SHAPE, 7, np.float32))
    assert _look(source).labels == {"label_3": 3, "label_7": 7, "label_200": 200}


def test_names_of_binary_organ_files_become_labels(tmp_path: Path) -> None:
    source = _source(tmp_path, cases=3)
    _organs(source, **{"Kidney Left": 3, "spleen": 2, "Liver": 3})
    assert _look(source).labels == {"kidney_left": 1, "liver": 2, "spleen": 3}


def test_values_of_binary_organ_files_are_no_labels(tmp_path: Path) -> None:
    source = _source(tmp_path, cases=2)
    _organs(source, liver=2)
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 0] = 255
    _save(source / "labelsTr" / "case_1" / "liver.nii.gz", mask)
    assert _look(source).labels == {"liver": 1}


def test_organ_files_of_one_name_when_normalised_are_refused(tmp_path: Path) -> None:
    source = _source(tmp_path, cases=1)
    _organs(source, **{"left kidney": 1, "left-kidney": 1})
    with pytest.raises(ParamsError, match="would both be 'left_kidney'"):
        _look(source)


def test_names_of_regions_become_labels_where_half_of_the_cases_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"liver", "spleen"}, {"liver", "spleen", "test"}, {"liver"}, {"liver", "old_liver"}]
    cases = [one_file_each(f"case_{number}", Path("i"), Path(f"{number}.dcm")) for number in range(4)]
    monkeypatch.setattr(
        "pipeline.onboarding.labels._found_in", lambda _, mask: found[int(mask.paths[0].stem)]
    )
    assert labels_in(tmp_path, cases, QUIET) == {"liver": 1, "spleen": 2}


def test_files_that_are_no_label_maps_name_no_labels(tmp_path: Path) -> None:
    source = _source(tmp_path, cases=4)
    _save(source / "labelsTr" / "case_1.nii.gz", np.full(SHAPE, 0.5, np.float32))
    _save(source / "labelsTr" / "case_2.nii.gz", np.full(SHAPE, 300, np.int16))
    (source / "labelsTr" / "case_3.nii.gz").write_bytes(b"not NIfTI")
    assert _look(source).labels == {"label_1": 1, "label_2": 2}


def test_a_source_without_one_label_map_says_so(tmp_path: Path) -> None:
    source = _source(tmp_path, values=())
    with pytest.raises(DataError, match="no label map holds whole numbers from 0 to 255"):
        _look(source)


def test_a_salt_is_written_only_where_patients_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    source = _source(tmp_path)
    assert _look(source).salt is None
    _describe(source, cases=[{"id": "case_0"}, {"id": "case_1", "patient": "Doe^Jane"}])
    organ = _look(source, labels={"liver": 1})
    assert organ.salt == fingerprint()
    assert not any("Doe" in line for line in organ.lines())


def test_without_a_name_to_hash_no_secret_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOUNSFIELD_SALT", raising=False)
    monkeypatch.delenv("HOUNSFIELD_SALT_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert _look(_source(tmp_path / "source")).salt is None
    assert not (tmp_path / "home").exists()


def test_subjects_of_a_bids_source_are_not_hashed_and_need_no_salt() -> None:
    case = replace(one_file_each("sub-1_ses-2", Path("image"), Path("label")), patient="sub-1")
    assert NewOrgan("x", "bids", [case], "MR", {"a": 1}, {}, [], None, [], [], None).salt is None


def test_a_case_that_is_called_like_its_hashed_patient_needs_a_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this test")
    case = one_file_each(pseudonym("Doe^Jane"), Path("image"), Path("label"))
    assert NewOrgan("x", "dicom", [case], "CT", {"a": 1}, {}, [], None, [], [], None).salt == fingerprint()


def test_images_with_air_in_hu_are_ct(tmp_path: Path) -> None:
    source = _source(tmp_path)
    (source / "imagesTr" / "case_1.nii.gz").write_bytes(b"damaged")
    assert _look(source).modality == "CT"


@pytest.mark.parametrize("air", [0, -400])
def test_images_without_air_in_hu_need_a_modality(tmp_path: Path, air: float) -> None:
    with pytest.raises(DataError, match=f"lowest values of its images \\({air}, {air}\\).*--modality"):
        _look(_source(tmp_path, air=air))


def test_an_unknown_modality_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="'PET'"):
        _look(_source(tmp_path), "PET")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"Left-Kidney": 1, "left kidney": 2}, "'Left-Kidney' and 'left kidney'"),
        ({"肝": 1}, "'肝' has no letter"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, labels: dict[str, int], message: str
) -> None:
    with pytest.raises(ParamsError, match=message):
        _look(_source(tmp_path), "CT", labels)


def test_labels_of_the_command_line_are_read() -> None:
    assert parse_labels(["Left Kidney=3", " liver = 1"]) == {"Left Kidney": 3, "liver": 1}


@pytest.mark.parametrize("entries", [["liver"], ["=1"], ["liver=one"], ["liver=-1"], ["liver=1", "liver=2"]])
def test_what_is_no_label_on_the_command_line_is_refused(entries: list[str]) -> None:
    with pytest.raises(ParamsError, match=r"is not a label|given twice"):
        parse_labels(entries)


def test_a_name_never_begins_with_a_digit(tmp_path: Path) -> None:
    assert _look(_source(tmp_path), "CT", {"3rd ventricle": 1}).labels == {"label_3rd_ventricle": 1}


def test_orphans_are_taken_along_and_named(tmp_path: Path) -> None:
    source = _source(tmp_path)
    _save(source / "imagesTr" / "lonely.nii.gz", np.zeros(SHAPE, np.int16))
    _save(source / "labelsTr" / "lost.nii.gz", np.zeros(SHAPE, np.uint8))
    organ = _look(source, "CT")
    assert organ.unpaired == ["lonely", "lost"]
    assert {Path("imagesTr/lonely.nii.gz"), Path("labelsTr/lost.nii.gz")} <= set(organ.files)
    assert "2 that lack something, which ingest will quarantine: lonely, lost" in organ.lines()[1]


def test_a_source_of_orphans_alone_is_refused(tmp_path: Path) -> None:
    source = _source(tmp_path, cases=1)
    (source / "labelsTr" / "case_0.nii.gz").rename(source / "labelsTr" / "other.nii.gz")
    with pytest.raises(DataError, match="none of its 2 cases has an image and a label of one name"):
        _look(source)


def test_hidden_files_and_files_of_no_case_are_counted_not_copied(tmp_path: Path) -> None:
    source = _source(tmp_path)
    (source / "imagesTr" / "._case_0.nii.gz").write_bytes(b"an archiver's leftover")
    (source / ".cache").mkdir()
    (source / ".cache" / "deep").write_text("")
    (source / "broken").symlink_to("nowhere")
    (source / "README").write_text("about")
    organ = _look(source)
    assert organ.left_out == [
        "2 hidden: 1 folders, 1 .gz",
        "2 of no case: 2 of another kind",
    ]
    assert len(organ.files) == 4


def test_a_scan_that_is_a_link_to_nowhere_is_refused_before_anything_is_copied(tmp_path: Path) -> None:
    source = _source(tmp_path)
    (source / "imagesTr" / "b.nii.gz").symlink_to("nowhere.nii.gz")
    with pytest.raises(DataError, match=r"imagesTr/b\.nii\.gz leads nowhere: fetch .* nothing was added"):
        _look(source)


def test_a_folder_of_no_case_that_cannot_be_read_may_hold_some(tmp_path: Path, closed: Any) -> None:
    source = _source(tmp_path)
    (source / "more").mkdir()
    closed(source / "more")
    with pytest.raises(DataError, match=r"more cannot be read \(Permission denied\)"):
        _look(source)


def test_a_name_that_is_not_utf_8_is_told_in_letters_that_can_be_printed(tmp_path: Path) -> None:
    source = _source(tmp_path)
    for kind in ("imagesTr", "labelsTr"):
        (source / kind / "case_1.nii.gz").rename(source / kind / os.fsdecode(b"M\xfcller.nii.gz"))
    with pytest.raises(DataError, match=r"imagesTr/M\\udcfcller\.nii\.gz, .* are not named in UTF-8: rename"):
        _look(source)


def test_what_is_left_out_is_told_by_its_kind_as_names_may_be_patients(tmp_path: Path) -> None:
    source = _source(tmp_path)
    for name in (b"M\xfcller.txt", b"Schmidt.Anna", b"Schmidt.pdf"):
        (source / os.fsdecode(name)).touch()
    (told,) = _look(source).left_out
    assert told.startswith("3 of no case: ")
    assert "ller" not in told
    assert "Anna" not in told
