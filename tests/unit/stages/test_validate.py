import json
import re

import nibabel
import numpy as np
import pandas as pd
import pytest

from pipeline.errors import DataError
from pipeline.params import ValidateParams
from pipeline.sampling.split import assign_splits
from pipeline.stages import validate
from pipeline.volumes.store import read_case, write_case

FOUND = 16
FILES = ("raw", "cases", "plans", "volumes", "accepted", "validation")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A case table of 16 with one case quarantined by ingest, its plan and its volumes."""
    monkeypatch.chdir(tmp_path)
    rows = [_row(number) for number in range(FOUND)]
    rows[5] |= {"status": "quarantined", "reason": "case_05: image without a label", "remedy": "add it"}
    table = pd.DataFrame(rows)
    table.loc[5, ["key", "spacing_z", "ml_liver"]] = [None, np.nan, np.nan]
    plan = {"modality": "CT", "labels": {"liver": 6}, "spacing": [2.0, 1.0, 1.0]}
    plan["normalisation"] = [{"image": 0, "clip": [0.0, 200.0], "mean": 100.0, "std": 30.0}]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    label = np.zeros((10, 12, 14), np.uint8)
    label[3:7, 4:8, 5:9] = 1
    for number in range(FOUND):
        if number != 5:
            write_case(tmp_path / f"volumes/case_{number:02}.b2nd", label * np.float32(100), label, {})
    table.to_parquet(tmp_path / "cases.parquet")
    return tmp_path


def _row(number):
    row = {"case": f"case_{number:02}", "patient": f"jane_doe_{number}", "status": "accepted"}
    row |= {"reason": "", "remedy": "", "key": f"key{number}", "image_hash": f"hash{number}"}
    row |= {"annotated": "", "scanner": "", "layout": "msd"}
    row |= {f"shape_{axis}": 20.0 for axis in "zyx"} | {f"spacing_{axis}": 1.0 for axis in "zyx"}
    row |= {"intensity_min": -1000.0, "intensity_max": 900.0, "air_hu": -1000.0, "body_share": 0.5}
    row |= {
        "voxels_liver": 1000 + number,
        "ml_liver": 1500.0 + number,
        "hu_liver": 100.0,
        "components_liver": 1,
    }
    row |= {f"{fact}_liver": 1.0 for fact in ("largest", "inside")} | {"touches_liver": 0.0}
    return row | {"centre_liver_z": 0.5, "centre_liver_y": 0.5, "centre_liver_x": 0.7}


def change(project, case, **values):
    table = pd.read_parquet(project / "cases.parquet")
    for column, value in values.items():
        table.loc[table["case"] == case, column] = value
    table.to_parquet(project / "cases.parquet")


def run(project, **params):
    """Run the stage and return what was accepted and result.json."""
    names = ("raw", "cases.parquet", "plan.json", "volumes", "accepted.parquet", "reports/validation")
    files = dict(zip(FILES, (project / name for name in names), strict=True))
    validate.run("abdomen", ValidateParams(**{"test_share": 0.25} | params), **files)
    return pd.read_parquet(files["accepted"]), read_result(project)


def read_result(project):
    return json.loads((project / "reports/validation/result.json").read_text())


def read_page(project):
    return (project / "reports/validation/index.html").read_text()


def test_accepted_cases_are_let_through_with_split_and_fold(project):
    accepted, _ = run(project)
    assert list(accepted["case"]) == [f"case_{number:02}" for number in range(FOUND) if number != 5]
    assert {"spacing_z", "ml_liver", "patient"} <= set(accepted.columns)
    assert set(accepted["split"]) == {"train", "test"}
    assert set(accepted.loc[accepted["split"] == "test", "fold"]) == {-1}
    assert set(accepted.loc[accepted["split"] == "train", "fold"]) <= set(range(5))
    assert (accepted["warnings"] == "").all()


def test_all_scans_of_a_patient_are_on_one_side_and_in_one_fold(project):
    for number in range(8):
        change(project, f"case_{number:02}", patient="jane_doe")
    accepted, _ = run(project)
    hers = accepted[accepted["patient"] == "jane_doe"]
    assert len(hers) == 7
    assert len(hers[["split", "fold"]].drop_duplicates()) == 1


def test_seed_folds_and_share_are_those_of_the_parameters(project):
    accepted, _ = run(project, split_seed=3, folds=2, test_share=0.5)
    expected = assign_splits([f"jane_doe_{number}" for number in range(FOUND) if number != 5], 0.5, 2, 3)
    assert list(zip(accepted["split"], accepted["fold"], strict=True)) == expected


def test_errors_quarantine_and_warnings_mark(project):
    change(project, "case_02", spacing_z=50.0)
    change(project, "case_03", intensity_min=-50.0, ml_liver=0.0)
    accepted, result = run(project)
    assert "case_02" not in set(accepted["case"])
    warnings = accepted.set_index("case")["warnings"]
    assert "-50 HU" in warnings["case_03"]
    assert "; liver is absent" in warnings["case_03"]
    assert (warnings.drop("case_03") == "").all()
    assert [(one["case"], one["by"]) for one in result["quarantined"]] == [
        ("case_05", "ingest"),
        ("case_02", "validation"),
    ]
    assert all(one["reason"] and one["remedy"] for one in result["quarantined"] + result["warned"])


def test_a_refused_case_is_not_warned_of_too(project):
    change(project, "case_02", spacing_z=50.0, intensity_min=-50.0)
    _, result = run(project)
    assert result["warned"] == []


def test_counts_add_up_and_are_said(project, capsys):
    change(project, "case_02", spacing_z=50.0)
    change(project, "case_03", ml_liver=0.0)
    accepted, result = run(project)
    counts = result["counts"]
    assert counts["found"] == FOUND
    assert counts["accepted"] == len(accepted) == 14
    assert counts["accepted"] == counts["train"] + counts["test"]
    assert (counts["quarantined_by_ingest"], counts["quarantined_by_validation"]) == (1, 1)
    assert (counts["warned"], counts["not_judged"]) == (1, 0)
    said = capsys.readouterr()
    assert "16 cases found = 14 accepted" in said.err
    assert said.out == ""


def test_the_page_shows_each_case_with_reason_remedy_and_picture(project):
    change(project, "case_02", spacing_z=50.0)
    change(project, "case_03", ml_liver=0.0)
    run(project)
    page = read_page(project)
    for told in ("case_02", "50 mm along z", "image without a label", "add it", "liver is absent"):
        assert told in page
    assert page.count('src="pictures/') == 2
    assert page.count("no picture: the file cannot be read") == 1
    assert len(list((project / "reports/validation/pictures").iterdir())) == 2


def test_of_several_images_the_one_that_a_network_sees_first_is_shown_in_its_window(project):
    change(project, "case_03", ml_liver=0.0)
    run(project)
    (picture,) = (project / "reports/validation/pictures").iterdir()
    of_one = picture.read_bytes()
    volume = project / "volumes/case_03.b2nd"
    case = read_case(volume)
    write_case(volume, np.concatenate([np.zeros_like(case.image), case.image]), case.label, {})
    plan = json.loads((project / "plan.json").read_text())
    plan["normalisation"][0]["image"] = 1
    (project / "plan.json").write_text(json.dumps(plan))
    run(project)
    assert picture.read_bytes() == of_one


def test_a_case_that_ingest_refused_is_shown_as_far_as_it_can_be_read(project):
    image = np.random.default_rng(0).integers(0, 99, (10, 12, 14)).astype(np.int16)
    (project / "raw/imagesTr").mkdir(parents=True)
    (project / "raw/labelsTr").mkdir()
    description = {"name": "x", "modality": {"0": "CT"}, "labels": {"0": "background", "6": "liver"}}
    description["training"] = [{"image": "imagesTr/case_05.nii.gz", "label": "labelsTr/case_05.nii.gz"}]
    (project / "raw/dataset.json").write_text(json.dumps(description))
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), project / "raw/imagesTr/case_05.nii.gz")
    (project / "raw/labelsTr/case_05.nii.gz").write_bytes(b"damaged")
    run(project)
    assert "no picture" not in read_page(project)
    assert len(list((project / "reports/validation/pictures").iterdir())) == 1


def test_nothing_that_is_written_comes_from_the_network(project):
    change(project, "case_03", ml_liver=0.0)
    run(project)
    pages = list((project / "reports").rglob("*.html"))
    assert {page.name for page in pages} >= {"index.html", "anatomy.html", "dataset.html"}
    for page in pages:
        content = page.read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|@import|<script""", content), page
        for target in re.findall(r"""(?:src|href)="([^"#]+)""", content):
            assert (page.parent / target).is_file(), f"{page}: {target}"


def test_what_is_told_of_the_data_as_a_whole_stops_nothing(project):
    accepted, result = run(project, folds=12)
    assert len(accepted) == FOUND - 1
    assert any("12 folds" in notice["reason"] for notice in result["notices"])
    assert "About the data as a whole" in read_page(project)


def test_nobodys_identity_is_told(project, capsys):
    change(project, "case_03", ml_liver=0.0, key="key4")
    run(project)
    told = read_page(project) + json.dumps(read_result(project)) + "".join(capsys.readouterr())
    assert "jane_doe" not in told


def test_the_same_table_gives_the_same_bytes(project):
    change(project, "case_03", ml_liver=0.0)

    def written():
        run(project)
        files = [project / "accepted.parquet", *sorted((project / "reports").rglob("*.*"))]
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    first = written()
    suites = {"table.html", "files.html", "geometry.html", "intensity.html", "anatomy.html", "dataset.html"}
    names = {name.rpartition("/")[2] for name in first}
    assert names == {"accepted.parquet", "index.html", "result.json"} | suites | {"00002.png"}
    assert written() == first


def test_a_new_case_leaves_the_others_where_they_were(project):
    before, _ = run(project)
    table = pd.read_parquet(project / "cases.parquet")
    new = pd.DataFrame([_row(99) | {"case": "a_new_case"}])
    (project / "volumes/a_new_case.b2nd").write_bytes((project / "volumes/case_00.b2nd").read_bytes())
    pd.concat([new, table]).to_parquet(project / "cases.parquet")
    after, _ = run(project)
    assert len(after) == len(before) + 1
    columns = ["split", "fold", "split_rule"]
    assert set(after["split_rule"]) == {"5 folds, seed 0"}
    kept = after.set_index("case").loc[before["case"], columns]
    pd.testing.assert_frame_equal(kept, before.set_index("case")[columns])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"min_cases": 16}, "15 cases are accepted, fewer than the 16"),
        ({"max_quarantined_share": 0.05}, "1 of 16 cases are quarantined"),
        ({"test_share": 0.0}, "test set"),
    ],
)
def test_a_poor_data_set_stops_the_run_after_the_page_is_written(project, params, told):
    run(project)
    with pytest.raises(DataError, match=told) as stopped:
        run(project, **params)
    assert stopped.value.exit_code == 2
    assert "params.yaml" in str(stopped.value)
    assert "index.html" in str(stopped.value)
    assert not (project / "accepted.parquet").exists()
    assert told in read_page(project)


def test_a_table_that_cannot_be_judged_stops_the_run(project):
    change(project, "case_07", status="perhaps")
    with pytest.raises(DataError, match="case_07 its status is 'perhaps'"):
        run(project)
    assert read_result(project)["counts"]["not_judged"] == FOUND
