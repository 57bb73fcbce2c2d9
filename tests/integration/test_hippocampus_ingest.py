"""Ingest on real volumes: hippocampus as the Decathlon gives it, and CTs that are not in HU."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import read_json, write_json
from pipeline.errors import DataError
from pipeline.params import IngestParams
from pipeline.stages import ingest
from pipeline.volumes.layouts import find_layout
from pipeline.volumes.store import StoredCase, read_case

HIPPOCAMPUS = IngestParams(modality="MR", labels={"anterior": 1, "posterior": 2})
HEAD_AND_NECK = {
    "Brainstem": 1,
    "SpinalCord": 2,
    "RightParotid": 3,
    "LeftParotid": 4,
    "Esophagus": 5,
    "Larynx": 6,
    "Mandible": 7,
}
CT = IngestParams(modality="CT", labels=HEAD_AND_NECK)
HEAD_AND_NECK_CASES = ("pt_1", "pt_10")


def _ingest(organ: str, params: IngestParams, raw: Path, root: Path) -> pd.DataFrame:
    files = {"volumes": root / "volumes", "cases": root / "cases.parquet", "plans": root / "plan.json"}
    ingest.run(organ, params, raw=raw, **files)
    return pd.read_parquet(files["cases"]).set_index("case")


def _copy(source: Path, cases: Iterable[str], target: Path) -> None:
    for kind in ("images", "labels"):
        (target / kind).mkdir(parents=True)
        for case in cases:
            shutil.copy(source / kind / f"{case}.nii.gz", target / kind)


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project to run in, with a home of its own."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml"):
        (folder / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOUNSFIELD_HOME", str(folder / "home"))
        yield folder


@pytest.fixture(scope="module")
def hippocampus(real_data: Path) -> Path:
    return real_data / "hippocampus"


@pytest.fixture(scope="module")
def ingested(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hippocampus, ingested once for all tests of it."""
    root = tmp_path_factory.mktemp("hippocampus")
    _ingest("hippocampus", HIPPOCAMPUS, hippocampus, root)
    return root


@pytest.fixture(scope="module")
def head_and_neck(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fourth planning CT and those that tests name, ingested once for all tests of them."""
    root = tmp_path_factory.mktemp("head_and_neck")
    source = real_data / "head_and_neck"
    cases = {path.name.partition(".")[0] for path in sorted((source / "images").iterdir())[::4]}
    cases |= {*HEAD_AND_NECK_CASES, "pt_100", "pt_216"}
    _copy(source, cases, root / "raw")
    # It says of each case which organs somebody looked for.
    described = read_json(source / "dataset.json")
    described["cases"] = [case for case in described["cases"] if case["id"] in cases]
    write_json(root / "raw" / "dataset.json", described)
    _ingest("head_and_neck", CT, root / "raw", root)
    return root


@pytest.fixture
def two_cases(real_data: Path, tmp_path: Path) -> Path:
    """Two of them, in a folder of their own."""
    _copy(real_data / "head_and_neck", HEAD_AND_NECK_CASES, tmp_path / "raw")
    return tmp_path / "raw"


def test_every_hippocampus_is_accepted_and_the_orphans_are_quarantined(ingested: Path) -> None:
    table = pd.read_parquet(ingested / "cases.parquet").set_index("case")
    assert dict(table["status"].value_counts()) == {"accepted": 200, "quarantined": 3}
    assert dict(table.loc[table["status"] == "quarantined", "reason"]) == {
        "hippocampus_010": "hippocampus_010: label without an image",
        "hippocampus_118": "hippocampus_118: image without a label",
        "hippocampus_281": "hippocampus_281: label without an image",
    }
    assert len(list((ingested / "volumes").glob("*.b2nd"))) == 200


def test_the_facts_of_the_hippocampi_are_those_of_the_data_set(ingested: Path, hippocampus: Path) -> None:
    table = pd.read_parquet(ingested / "cases.parquet").set_index("case")
    accepted = table[table["status"] == "accepted"]
    for axis, low, high in (("z", 24, 47), ("y", 40, 59), ("x", 31, 43)):
        assert accepted[f"shape_{axis}"].between(low, high).all()
        assert (accepted[f"spacing_{axis}"] == 1.0).all()
    share = accepted[["voxels_anterior", "voxels_posterior"]].sum()
    share = share / accepted[["shape_z", "shape_y", "shape_x"]].prod(axis=1).sum()
    assert share.round(3).tolist() == [0.027, 0.025]
    layout = find_layout(hippocampus)
    assert (layout.name, layout.modality) == ("msd", "MR")
    assert layout.declared.labels is not None
    assert sorted(layout.declared.labels.values()) == [1, 2]


def test_a_hippocampus_is_stored_as_a_z_score_with_its_labels(ingested: Path) -> None:
    table = pd.read_parquet(ingested / "cases.parquet").set_index("case")
    stored = StoredCase(ingested / "volumes" / "hippocampus_004.b2nd")
    (image,), label = stored.image(), stored.label()
    assert abs(float(image.mean())) < 1e-3
    assert float(image.std()) == pytest.approx(1, abs=1e-3)
    counts = table.loc[["hippocampus_004"], ["voxels_anterior", "voxels_posterior"]].values.tolist()
    assert [np.bincount(label.ravel())[1:].tolist()] == counts
    plan = read_json(ingested / "plan.json")
    assert plan["spacing"] == [1.0, 1.0, 1.0]
    assert plan["fingerprint"]["cases"] == 200


def test_the_offset_of_cts_that_are_not_in_hu_is_found_by_itself(head_and_neck: Path) -> None:
    table = pd.read_parquet(head_and_neck / "cases.parquet")
    assert len(table) >= 40
    assert (table["status"] == "accepted").all()
    assert set(table["notes"]) == {"HU offset -1000 added"}
    assert (table["intensity_min"] == -1000).all()
    plan = read_json(head_and_neck / "plan.json")
    assert plan["recipe"]["offset"] == {"hu": -1000.0, "where": "unsigned"}
    assert "soft tissue" in plan["reasons"]["offset"]
    assert table["hu_Brainstem"].median() == pytest.approx(30, abs=10)
    assert table["hu_SpinalCord"].median() == pytest.approx(36, abs=10)


def test_an_organ_that_nobody_looked_for_has_no_volume(head_and_neck: Path) -> None:
    table = pd.read_parquet(head_and_neck / "cases.parquet").set_index("case")
    assert table.loc["pt_10", "annotated"] == "Brainstem;SpinalCord;RightParotid;LeftParotid"
    assert table.loc[["pt_10"], ["ml_Esophagus", "ml_Larynx", "ml_Mandible"]].isna().all(axis=None)
    assert table.loc["pt_100", "annotated"] == ""
    assert 0 < (table["annotated"] == "").sum() < len(table) / 2


def test_a_spinal_cord_far_too_large_stays_in_the_table_for_validation_to_judge(head_and_neck: Path) -> None:
    table = pd.read_parquet(head_and_neck / "cases.parquet").set_index("case")
    volumes = table["ml_SpinalCord"]
    assert table.loc["pt_216", "status"] == "accepted"
    assert volumes.idxmax() == "pt_216"
    assert volumes.max() > 20 * volumes.median()
    assert (head_and_neck / "volumes" / "pt_216.b2nd").is_file()


def test_an_offset_that_is_given_makes_the_same_volumes_as_the_one_that_is_found(
    head_and_neck: Path, two_cases: Path, tmp_path: Path
) -> None:
    spacing = tuple(read_json(head_and_neck / "plan.json")["spacing"])
    params = CT.model_copy(update={"hu_offset": -1000.0, "spacing": spacing})
    table = _ingest("head_and_neck", params, two_cases, tmp_path)
    assert (table["status"] == "accepted").all()
    assert (table["intensity_min"] == -1000).all()
    assert (table["notes"] == "HU offset -1000 added").all()
    for case in HEAD_AND_NECK_CASES:
        volume, found = (read_case(root / "volumes" / f"{case}.b2nd") for root in (tmp_path, head_and_neck))
        assert np.array_equal(volume.image, found.image)
        assert np.array_equal(volume.label, found.label)
        brainstem = float(np.median(volume.image[0][volume.label == 1]))
        assert -50 < brainstem < 100, "soft tissue lies near water"


def test_without_an_offset_those_cts_are_refused_with_the_parameter_that_mends_it(
    two_cases: Path, tmp_path: Path
) -> None:
    params = CT.model_copy(update={"hu_offset": 0.0})
    with pytest.raises(DataError, match=r"none of 2 cases can be used.*ingest\.hu_offset"):
        _ingest("head_and_neck", params, two_cases, tmp_path)
    table = pd.read_parquet(tmp_path / "cases.parquet").set_index("case")
    assert sorted(table.index) == sorted(HEAD_AND_NECK_CASES)
    assert (table["status"] == "quarantined").all()
    for case, row in table.iterrows():
        assert str(row["reason"]).startswith(f"{case}: the lowest value is 0, but air is at -1000 HU")
        assert "ingest.hu_offset" in str(row["remedy"])
