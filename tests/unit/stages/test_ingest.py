import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from pipeline.atomic import read_json
from pipeline.errors import DataError
from pipeline.params import IngestParams
from pipeline.stages import ingest
from pipeline.volumes.layouts import CaseFiles

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
    return {path.stem: path.stat().st_mtime_ns for path in (root / "volumes").iterdir()}


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
        "shifted": (_image(0) + 1024, _label(0), AFFINE, "lowest value is 24"),
        "elsewhere": (_image(0), _label(0), np.diag([-1.0, -1.0, 5.0, 1.0]), "mm apart"),
        "cut": (_image(0), _label(0)[:10], AFFINE, "voxels and the label map"),
        "series": (np.zeros((*SHAPE, 2), np.int16), _label(0), AFFINE, "shape (20, 18, 12, 2)"),
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
        assert (row["status"], row["key"]) == ("quarantined", "")
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
    numbers = table.select_dtypes("number")
    assert {"shape_z", "spacing_x", "intensity_p99", "ml_liver", "voxels_tumour"} <= set(numbers)
    assert numbers.loc[list(GOOD)].notna().all(axis=None)
    assert numbers.loc[spoilt].isna().all(axis=None)
    assert (table.loc[["label_only"], "image"] == "").all()
    assert table.loc["a", "image"] == "imagesTr/a.nii.gz"


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


def test_without_a_readable_pair_there_is_no_spacing_to_plan(tmp_path: Path) -> None:
    _save(tmp_path / "raw", "images", "a", _image(0))
    _save(tmp_path / "raw", "labels", "b", _label(0))
    with pytest.raises(DataError, match="no case has a readable image and a label"):
        _run(tmp_path)


def test_a_name_is_printed_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _save(root / "raw", "images", "scan[bold]7", _image(0))
    _run(root)
    assert "scan[bold]7: image without a label" in capsys.readouterr().err


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
    whole = tmp_path_factory.mktemp("whole")
    _add(whole / "raw", *(f"case_{number:02}" for number in range(16)))
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
        while len(list((tmp_path / "volumes").glob("[!.]*"))) < wanted and process.poll() is None:
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


def test_a_reason_that_names_no_case_is_given_its_name() -> None:
    files = CaseFiles("a", "a", Path("imagesTr/a.nii.gz"), Path("labelsTr/a.nii.gz"))
    row = ingest._quarantined(files, DataError("its worker died (exit code -9)", "it may need more memory"))
    assert row["reason"] == "a: its worker died (exit code -9)"
    assert ingest._quarantined(files, DataError("a: no label"))["reason"] == "a: no label"
