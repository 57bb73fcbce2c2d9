import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.atomic import locked, read_json, write_json
from pipeline.errors import DataError, ParamsError, ResourceError
from pipeline.params import IngestParams
from pipeline.stages import ingest
from pipeline.volumes.cases import attempt_case
from pipeline.volumes.job import Job
from pipeline.volumes.store import read_case
from pipeline.volumes.workers import Budget, Crew, Outcome, run_each

pytestmark = pytest.mark.usefixtures("project")

SHAPE = (20, 18, 12)
AFFINE = np.diag([-1.0, -1.0, 2.5, 1.0])
GOOD = ("a", "b", "c", "d")


def _image(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 400, SHAPE).astype(np.int16)


def _label(seed: int) -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, np.uint8)
    label[3 : 8 + seed % 5, 4:12, 3:9] = 1
    label[4:6, 5:9, 4:8] = 2
    return label


def _save(raw: Path, kind: str, case: str, array: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    path = raw / f"{kind}Tr" / f"{case}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def _add(raw: Path, *cases: str) -> None:
    """Good cases, each of its own voxels."""
    for case in cases:
        seed = sum(case.encode())
        _save(raw, "images", case, _image(seed))
        _save(raw, "labels", case, _label(seed))


def _files(root: Path) -> dict[str, Path]:
    return {
        "raw": root / "raw",
        "volumes": root / "volumes",
        "cases": root / "cases.parquet",
        "plans": root / "plan.json",
    }


def _run(root: Path, **params: Any) -> pd.DataFrame:
    """The stage as dvc runs it; the case table, indexed by case."""
    given = {"modality": "CT", "labels": {"liver": 1, "tumour": 2}, "workers": 2} | params
    ingest.run("liver", IngestParams.model_validate(given), **_files(root))
    return _table(root)


def _table(root: Path) -> pd.DataFrame:
    return pd.read_parquet(root / "cases.parquet").set_index("case", drop=False)


def _outputs(root: Path) -> dict[str, bytes]:
    """Every byte that the stage has written."""
    files = _files(root)
    paths = [*files["volumes"].iterdir(), files["cases"], files["plans"]]
    return {path.name: path.read_bytes() for path in paths}


def _written(root: Path) -> dict[str, int]:
    """When each volume was written."""
    return {path.stem: path.stat().st_mtime_ns for path in (root / "volumes").glob("*.b2nd")}


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that these tests wrote a moment ago count as written long before."""
    monkeypatch.setattr("pipeline.volumes.hashes.SETTLED", -3600.0)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The cases that are given to workers, by what they do with them, until the next run."""
    seen: dict[str, list[str]] = {}

    def watched(function: Any, jobs: list[Job], *rest: Any) -> Any:
        seen.setdefault(function.__name__, []).extend(job.files.case for job in jobs)
        return run_each(function, jobs, *rest)

    monkeypatch.setattr(ingest, "run_each", watched)
    return seen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four good cases."""
    _add(tmp_path / "raw", *GOOD)
    return tmp_path


def _spoil(raw: Path) -> dict[str, str]:
    """Add a case of every kind that cannot be used; what its reason must say."""
    _save(raw, "images", "image_only", _image(0))
    _save(raw, "labels", "label_only", _label(0))
    holes = _image(0).astype(np.float32)
    holes[0, 0, 0] = np.nan
    spoilt: dict[str, tuple[NDArray[Any], NDArray[Any], NDArray[np.float64], str]] = {
        "holes": (holes, _label(0), AFFINE, "1 voxels are NaN"),
        "stray": (_image(0), _label(0) * 3, AFFINE, "holds 3, 6"),
        "shifted": (_image(0) + 3000, _label(0), AFFINE, "lowest value is 2000"),
        "elsewhere": (_image(0), _label(0), np.diag([-1.0, -1.0, 5.0, 1.0]), "mm apart"),
        "cut": (_image(0), _label(0)[:10], AFFINE, "voxels and the label map"),
        "series": (np.zeros((*SHAPE, 2), np.int16), _label(0), AFFINE, "2 channels, but 1 is expected"),
    }
    for case, (image, label, affine, _) in spoilt.items():
        _save(raw, "images", case, image)
        _save(raw, "labels", case, label, affine)
    _add(raw, "garbage")
    (raw / "imagesTr/garbage.nii.gz").write_bytes(b"no scan")
    reasons = {case: reason for case, (_, _, _, reason) in spoilt.items()}
    return reasons | {
        "image_only": "image without a label",
        "label_only": "label without an image",
        "garbage": "cannot be read",
    }


@pytest.mark.usefixtures("settled")
def test_channels_in_one_file_are_taken_as_files_of_their_own_are(
    root: Path, given: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, case in enumerate(GOOD):
        _save(root / "raw", "images", case, np.stack([_image(seed), _image(seed + 10)], axis=-1))
    _save(root / "raw", "images", "three", np.stack([_image(0)] * 3, axis=-1))
    _save(root / "raw", "labels", "three", _label(0))
    table = _run(root, modality="MR")
    assert "liver: 5 cases of 2 channels, 4 accepted, 1 quarantined" in capsys.readouterr().err
    assert list(table["channels"][list(GOOD)]) == [2] * 4
    assert read_json(root / "plan.json")["recipe"]["channels"] == 2
    assert len(read_json(root / "plan.json")["normalisation"]) == 2
    assert "three: it has 3 channels, but 2 are expected" in table.loc["three", "reason"]
    assert read_case(root / "volumes" / "a.b2nd").image.shape[0] == 2
    before = _outputs(root)
    given.clear()
    _run(root, modality="MR")
    # Nothing is made again, and no header read but of the case that was refused.
    assert given.get("attempt_case", []) == []
    assert set(given.get("survey_case", [])) <= {"three"}
    assert _outputs(root) == before


def test_every_case_is_accepted_or_quarantined_with_its_reason(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = _spoil(root / "raw")
    table = _run(root)
    assert set(table.index) == set(GOOD) | reasons.keys()
    assert list(table.index) == sorted(table.index)
    assert set(table.index[table["status"] == "accepted"]) == set(GOOD)
    for case, reason in reasons.items():
        row = table.loc[case]
        assert row["status"] == "quarantined"
        assert len(row["key"]) == len(row["content"]) == 64
        assert case in row["reason"]
        assert reason in row["reason"]
        assert row["remedy"]
    assert (table.loc[list(GOOD), "reason"] == "").all()
    said = capsys.readouterr().err
    assert "13 cases, 4 accepted, 9 quarantined" in said
    assert all(reason in said for reason in reasons.values())
    assert str(table.loc["shifted", "remedy"]) in said


def test_accepted_cases_have_a_volume_and_numbers_and_others_have_neither(root: Path) -> None:
    spoilt = list(_spoil(root / "raw"))
    table = _run(root)
    assert _written(root).keys() == set(GOOD)
    numbers = table.select_dtypes("number").assign(stored_peak=table["stored_peak"])
    assert {"shape_z", "spacing_x", "intensity_p99", "ml_liver", "voxels_tumour"} <= set(numbers)
    # Soft tissue is looked for in scans without a sign, and air around a body; noise has neither.
    missing = numbers.loc[list(GOOD)].isna().any()
    assert sorted(missing[missing].index) == ["air_hu", "stored_peak"]
    assert numbers.loc[spoilt].isna().all(axis=None)
    assert (table["layout"] == "msd").all()
    assert (
        not table.astype(str).apply(lambda column: column.str.contains("nii")).loc[list(GOOD)].any(axis=None)
    )


def test_quarantined_cases_do_not_count_in_the_plan(root: Path) -> None:
    _run(root)
    before = read_json(root / "plan.json")
    _spoil(root / "raw")
    _run(root)
    assert read_json(root / "plan.json") == before
    assert before["fingerprint"]["cases"] == len(GOOD)
    assert before["spacing"] == [2.5, 1.0, 1.0]


def test_a_second_run_writes_the_same_bytes_and_makes_no_volume(root: Path) -> None:
    _spoil(root / "raw")
    _run(root)
    before, written = _outputs(root), _written(root)
    _run(root)
    assert _outputs(root) == before
    assert _written(root) == written


def test_neither_the_number_of_workers_nor_the_folder_changes_a_byte(
    root: Path, tmp_path_factory: Any
) -> None:
    _spoil(root / "raw")
    other = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(root / "raw", other / "raw")
    _run(root, workers=2)
    _run(other, workers=1)
    assert _outputs(root) == _outputs(other)


def test_a_changed_label_is_ingested_again_and_nothing_else(root: Path) -> None:
    table, written = _run(root), _written(root)
    label = _label(0)
    label[0, 0, 0] = 2
    _save(root / "raw", "labels", "b", label)
    after = _run(root)
    assert {case for case, time_ns in _written(root).items() if time_ns != written[case]} == {"b"}
    assert len(set(after["key"]) - set(table["key"])) == 1
    assert after.loc["b", "voxels_tumour"] == 2 * 4 * 4 + 1
    pd.testing.assert_frame_equal(after.drop("b"), table.drop("b"))


def test_a_removed_case_leaves_the_table_and_the_volumes(root: Path) -> None:
    _run(root)
    for kind in ("images", "labels"):
        (root / f"raw/{kind}Tr/c.nii.gz").unlink()
    assert list(_run(root).index) == ["a", "b", "d"]
    assert _written(root).keys() == {"a", "b", "d"}


def test_a_case_that_goes_bad_loses_its_volume(root: Path) -> None:
    _run(root)
    (root / "raw/labelsTr/c.nii.gz").unlink()
    assert _run(root).loc["c", "status"] == "quarantined"
    assert _written(root).keys() == {"a", "b", "d"}


def test_what_came_piece_by_piece_is_what_would_have_come_at_once(root: Path, tmp_path_factory: Any) -> None:
    _add(root / "raw", "gone")
    _run(root)
    _add(root / "raw", "0_first", "z_last")
    _save(root / "raw", "images", "b", _image(99))
    for kind in ("images", "labels"):
        (root / f"raw/{kind}Tr/gone.nii.gz").unlink()
    _run(root)
    at_once = tmp_path_factory.mktemp("at_once")
    shutil.copytree(root / "raw", at_once / "raw")
    _run(at_once)
    assert _outputs(root) == _outputs(at_once)


def test_another_planned_spacing_makes_every_volume_again(root: Path) -> None:
    _run(root)
    written = _written(root)
    table = _run(root, spacing=(5.0, 2.0, 2.0))
    assert all(_written(root)[case] != written[case] for case in GOOD)
    assert read_json(root / "plan.json")["spacing"] == [5.0, 2.0, 2.0]
    assert table.loc["a", "spacing_z"] == 2.5, "the table tells of the original"


def test_leftovers_in_the_folder_of_volumes_are_removed(root: Path) -> None:
    (root / "volumes" / "folder").mkdir(parents=True)
    for name in (".4711.partial.a.b2nd", "old.b2nd", "folder/file"):
        (root / "volumes" / name).touch()
    _run(root)
    assert _written(root).keys() == set(GOOD)


def test_without_one_good_case_the_first_reason_is_told_and_the_table_is_there(tmp_path: Path) -> None:
    _add(tmp_path / "raw", "a", "b")
    with pytest.raises(DataError) as refused:
        _run(tmp_path, labels={"x": 9})
    assert "none of 2 cases can be used; the first: a: the label map holds 1, 2" in refused.value.reason
    assert "ingest.labels" in refused.value.remedy
    assert (_table(tmp_path)["status"] == "quarantined").all()
    assert not (tmp_path / "plan.json").exists()


def test_a_source_of_which_nothing_can_be_read_has_a_table_of_reasons(tmp_path: Path) -> None:
    _add(tmp_path / "raw", "a", "b")
    for case in "ab":
        (tmp_path / f"raw/imagesTr/{case}.nii.gz").write_bytes(b"no scan")
    with pytest.raises(DataError, match=r"liver: none of 2 cases can be used; the first: a\.nii\.gz cannot"):
        _run(tmp_path)
    table = _table(tmp_path)
    assert table["reason"].str.contains("cannot be read").all()
    assert (table["remedy"] != "").all()
    assert not (tmp_path / "plan.json").exists()


def test_a_source_without_a_pair_has_a_table_of_reasons(tmp_path: Path) -> None:
    _save(tmp_path / "raw", "images", "a", _image(0))
    _save(tmp_path / "raw", "labels", "b", _label(0))
    with pytest.raises(DataError, match="none of 2 cases can be used; the first: a: image without a label"):
        _run(tmp_path)
    assert list(_table(tmp_path)["reason"]) == ["a: image without a label", "b: label without an image"]


def test_a_name_is_printed_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _add(root / "raw", "scan[bold]7")
    (root / "raw/imagesTr/scan[bold]7.nii.gz").write_bytes(b"no scan")
    table = _run(root)
    assert "scan_bold_7: scan[bold]7.nii.gz cannot be read" in capsys.readouterr().err
    assert table.loc["scan_bold_7", "status"] == "quarantined"


def test_a_name_that_is_not_utf_8_is_that_of_one_refused_case(root: Path) -> None:
    for kind in ("images", "labels"):
        (root / "raw" / f"{kind}Tr" / os.fsdecode(b"M\xfcller.nii.gz")).write_bytes(b"damaged")
    row = _run(root).loc["M_ller"]
    assert row["reason"].startswith(r"M_ller: M\udcfcller.nii.gz cannot be read")


def test_a_second_run_at_the_same_time_waits_for_the_first(root: Path) -> None:
    second = threading.Thread(target=_run, args=(root,))
    with locked(root / ".volumes.lock", "a test"):
        second.start()
        second.join(0.5)
        assert not (root / "volumes").exists()
    second.join()
    assert set(_written(root)) == set(GOOD)


@pytest.mark.usefixtures("settled")
def test_what_nobody_touched_is_not_even_given_to_a_worker(root: Path, given: dict[str, list[str]]) -> None:
    _save(root / "raw", "images", "image_only", _image(0))
    table = _run(root)
    assert sorted(given["attempt_case"]) == sorted(table.index)
    before = _outputs(root)
    given.clear()
    for _ in range(2):
        _run(root)
        assert given == {}
        assert _outputs(root) == before


@pytest.mark.usefixtures("settled")
def test_a_file_that_was_touched_and_not_changed_makes_no_volume(
    root: Path, given: dict[str, list[str]]
) -> None:
    _run(root)
    before, written = _outputs(root), _written(root)
    given.clear()
    (root / "raw/imagesTr/b.nii.gz").touch()
    _run(root)
    assert given["attempt_case"] == ["b"]
    assert (_outputs(root), _written(root)) == (before, written)
    given.clear()
    _run(root)
    assert given == {}


@pytest.mark.usefixtures("settled")
def test_a_change_that_leaves_size_and_time_as_they_were_is_seen(root: Path) -> None:
    def save(seed: int) -> None:
        image = nibabel.Nifti1Image(_image(seed), AFFINE)
        nibabel.save(image, path)

    path = root / "raw/imagesTr/b.nii"
    (root / "raw/imagesTr/b.nii.gz").unlink()
    save(1)
    table, before = _run(root), path.stat()
    save(2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    after = _run(root)
    assert after.loc["b", "key"] != table.loc["b", "key"]
    assert after.loc["b", "image_hash"] != table.loc["b", "image_hash"]


@pytest.mark.usefixtures("settled")
def test_one_new_case_among_thirty_makes_one_volume(tmp_path: Path, given: dict[str, list[str]]) -> None:
    _add(tmp_path / "raw", *(f"case_{number:02}" for number in range(30)))
    _run(tmp_path)
    written = _written(tmp_path)
    given.clear()
    _add(tmp_path / "raw", "case_new")
    _run(tmp_path)
    assert given == {"survey_case": ["case_new"], "attempt_case": ["case_new"]}
    after = _written(tmp_path)
    assert after.pop("case_new")
    assert after == written


@pytest.mark.usefixtures("settled")
def test_a_quarantined_case_is_attempted_again_only_when_it_changed(
    root: Path, given: dict[str, list[str]]
) -> None:
    _save(root / "raw", "labels", "c", _label(0) * 3)
    table = _run(root)
    given.clear()
    assert _run(root).equals(table)
    assert "attempt_case" not in given
    _save(root / "raw", "labels", "c", _label(0) * 4)
    assert "holds 4, 8" in _run(root).loc["c", "reason"]
    assert given["attempt_case"] == ["c"]
    given.clear()
    _add(root / "raw", "c")
    assert _run(root).loc["c", "status"] == "accepted"
    assert given["attempt_case"] == ["c"]


@pytest.mark.usefixtures("settled")
def test_a_quarantined_case_gets_a_new_hearing_under_other_parameters(root: Path) -> None:
    _save(root / "raw", "labels", "c", _label(0) * 2)
    assert _run(root).loc["c", "status"] == "quarantined"
    assert _run(root, labels={"liver": 1, "tumour": 2, "vessel": 4}).loc["c", "status"] == "accepted"


@pytest.mark.usefixtures("settled")
def test_what_this_machine_could_not_do_is_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(function: Any, jobs: list[Job], *rest: Any) -> Any:
        for outcome in run_each(function, jobs, *rest):
            lost = function is attempt_case and outcome.item.files.case == "c"
            error = ResourceError("its worker died (exit code -9)", "it may need more memory")
            yield Outcome(outcome.item, None, error) if lost else outcome

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "run_each", dying)
        row = _run(root).loc["c"]
    assert (row["status"], row["key"]) == ("quarantined", "")
    assert row["reason"] == "c: its worker died (exit code -9)"
    assert _run(root).loc["c", "status"] == "accepted"


@pytest.mark.usefixtures("settled")
def test_what_the_source_says_wrongly_of_a_case_counts_until_it_is_mended(root: Path) -> None:
    described = root / "raw/dataset.json"
    before = _run(root)
    for _ in range(2):
        write_json(described, {"cases": [{"id": "c", "annotated": "liver"}]})
        row = _run(root).loc["c"]
        assert (row["status"], row["remedy"]) == ("quarantined", "mend it in the list of cases")
        assert "c" not in _written(root)
        write_json(described, {"cases": [{"id": "c"}]})
        assert _run(root).equals(before)


def test_labels_that_are_in_a_case_and_not_in_its_annotated_are_told(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(root / "raw/dataset.json", {"cases": [{"id": "c", "annotated": ["tumour"]}]})
    assert _run(root).loc["c", "status"] == "accepted"
    said = " ".join(capsys.readouterr().err.split())
    assert "not learned from: liver in 1 cases whose 'annotated' leaves it out, first c" in said


def test_the_memory_of_a_case_is_that_of_the_original_and_of_its_volume(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[Budget] = []
    needed: dict[str, int] = {}

    def watched(
        function: Any, jobs: list[Job], workers: int, timeout: float, budget: Budget | None, crew: Crew
    ) -> Any:
        if budget is not None:
            budgets.append(budget)
            needed.update({job.files.case: budget.needs(job) for job in jobs})
        return run_each(function, jobs, workers, timeout, budget, crew)

    monkeypatch.setattr(ingest, "run_each", watched)
    _add(root / "raw", "garbage")
    (root / "raw/imagesTr/garbage.nii.gz").write_bytes(b"no scan")
    _run(root, memory_gb=0.25, spacing=(2.5, 0.5, 0.5))
    assert [budget.total for budget in budgets] == [250_000_000]
    voxels = int(np.prod(SHAPE))
    assert needed == dict.fromkeys(GOOD, ingest.BYTES_A_VOXEL * (voxels + 4 * voxels)) | {"garbage": 0}


def test_cases_that_need_more_memory_than_there_may_be_used_come_one_by_one(root: Path) -> None:
    at_once = _run(root)
    shutil.rmtree(root / "volumes")
    assert _run(root, memory_gb=1e-6).equals(at_once)


def _unsigned(seed: int) -> NDArray[np.int16]:
    """A CT as it is stored without a sign: air at 0, soft tissue at 1040."""
    generator = np.random.default_rng(seed)
    image = np.zeros(SHAPE, np.int16)
    image[2:-2, 2:-2] = generator.normal(1040, 12, (SHAPE[0] - 4, SHAPE[1] - 4, SHAPE[2])).round()
    return image


def test_the_offset_of_scans_without_a_sign_is_found_and_the_others_keep_their_values(root: Path) -> None:
    for case in "abc":
        _save(root / "raw", "images", case, _unsigned(ord(case)))
    table = _run(root)
    assert (table["status"] == "accepted").all()
    assert list(table["notes"]) == ["HU offset -1000 added"] * 3 + [""]
    assert (table["intensity_min"] == -1000).all()
    assert table.loc["a", "hu_liver"] == pytest.approx(40, abs=5)
    plan = read_json(root / "plan.json")
    assert plan["recipe"]["offset"] == {"hu": -1000.0, "where": "unsigned"}
    assert "soft tissue" in plan["reasons"]["offset"]


def test_an_offset_of_params_is_added_to_every_scan(root: Path) -> None:
    for case in GOOD:
        _save(root / "raw", "images", case, _image(ord(case)) + 24)
    table = _run(root, hu_offset=-24)
    assert set(table["notes"]) == {"HU offset -24 added"}
    assert read_json(root / "plan.json")["recipe"]["offset"] == {"hu": -24.0, "where": "everywhere"}


@pytest.mark.usefixtures("settled")
def test_the_offset_is_found_also_where_the_scans_were_taken_for_mr_before(
    root: Path, tmp_path_factory: Any
) -> None:
    for case in GOOD:
        _save(root / "raw", "images", case, _unsigned(ord(case)))
    _run(root, modality="MR")
    _run(root)
    at_once = tmp_path_factory.mktemp("at_once")
    shutil.copytree(root / "raw", at_once / "raw")
    _run(at_once)
    assert _outputs(root) == _outputs(at_once)


def test_some_cases_may_have_a_file_a_channel_where_others_have_one_of_four_dimensions(
    tmp_path: Path,
) -> None:
    raw = tmp_path / "raw"
    for seed, case in enumerate(("a", "b", "c", "d_0000")):
        channels = [_image(2 * seed + channel) for channel in range(3 if case == "c" else 2)]
        _save(raw, "images", case, np.stack(channels, axis=-1))
    for channel in range(2):
        _save(raw, "images", f"apart_{channel:04}", _image(channel))
    for case in ("a", "b", "c", "d", "apart"):
        _save(raw, "labels", case, _label(0))
    table = _run(tmp_path, modality="MR")
    refused = table[table["status"] == "quarantined"]
    assert list(refused["case"]) == ["c"]
    together, apart = (read_case(tmp_path / f"volumes/{case}.b2nd").image for case in ("a", "apart"))
    assert np.array_equal(together, apart)


def test_two_images_of_a_case_are_two_channels_and_a_case_that_lacks_one_is_refused(tmp_path: Path) -> None:
    for seed, case in enumerate("abc"):
        _save(tmp_path / "raw", "labels", case, _label(0))
        for channel in range(1 if case == "c" else 2):
            _save(tmp_path / "raw", "images", f"{case}_{channel:04}", _image(2 * seed + channel))
    table = _run(tmp_path, modality="MR")
    assert list(table["status"]) == ["accepted", "accepted", "quarantined"]
    assert (table["layout"] == "nnunet").all()
    assert "it lacks the channel 0001" in table.loc["c", "reason"]
    assert read_case(tmp_path / "volumes/a.b2nd").image.shape == (2, 12, 18, 20)
    plan = read_json(tmp_path / "plan.json")
    assert plan["recipe"]["channels"] == 2
    assert [channel["image"] for channel in plan["normalisation"]] == [0, 1]


def test_windows_of_params_are_channels_of_the_plan(root: Path) -> None:
    _run(root, normalisation={"windows": [[-160, 240], [-1000, 400]]})
    assert [channel["clip"] for channel in read_json(root / "plan.json")["normalisation"]] == [
        [-160.0, 240.0],
        [-1000.0, 400.0],
    ]
    assert read_case(root / "volumes/a.b2nd").image.shape[0] == 1


def test_patients_are_never_hashed_with_another_secret_than_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUNSFIELD_SALT", "of this machine")
    with pytest.raises(ParamsError, match="this machine's secret"):
        _run(root, salt="00000000")
    assert not (root / "cases.parquet").exists()


RUN = """
import resource
import sys
from pathlib import Path
from pipeline.params import IngestParams
from pipeline.stages import ingest

if __name__ == "__main__":
    root = Path(sys.argv[1])
    if len(sys.argv) > 2:
        # A disk with room for no file beyond so many bytes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    params = IngestParams(modality="CT", labels={"liver": 1, "tumour": 2}, workers=2)
    files = {"raw": root / "raw", "volumes": root / "volumes"}
    ingest.run("liver", params, **files, cases=root / "cases.parquet", plans=root / "plan.json")
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen cases, ingested in one go."""
    whole, project = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("project")
    _add(whole / "raw", *(f"case_{number:02}" for number in range(16)))
    for name in ("dvc.yaml", "params.yaml"):
        (project / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("HOUNSFIELD_HOME", str(project / "home"))
        _run(whole)
    return whole


@pytest.mark.parametrize("wanted", [1, 7, 16])
def test_a_run_killed_in_the_middle_and_run_again_gives_the_same(
    tmp_path: Path, uninterrupted: Path, wanted: int
) -> None:
    shutil.copytree(uninterrupted / "raw", tmp_path / "raw")
    (tmp_path / "run.py").write_text(RUN)
    with subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path], stderr=subprocess.DEVNULL
    ) as process:
        while len(list((tmp_path / "volumes").glob("[!.]*.b2nd"))) < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(random.Random(wanted).random() * 0.02)
        process.kill()
    # Later kills may come too late where the machine is busy; the outcome must be the same then, too.
    assert wanted > 1 or process.returncode < 0
    _run(tmp_path)
    assert _outputs(tmp_path) == _outputs(uninterrupted)


def test_a_full_disk_stops_the_run_and_blames_no_case(root: Path) -> None:
    (root / "run.py").write_text(RUN)
    command = [sys.executable, str(root / "run.py"), str(root), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MissingError" in done.stderr
    assert "cannot be written" in done.stderr
    assert not (root / "cases.parquet").exists()
    assert (_run(root)["status"] == "accepted").all()
