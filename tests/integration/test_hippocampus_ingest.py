"""Ingest on real volumes: hippocampus as the Decathlon gives it, and a CT that is not in HU."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.atomic import read_json
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
HEAD_AND_NECK_CASES = ("pt_1", "pt_10")


def _ingest(organ: str, params: IngestParams, raw: Path, root: Path) -> pd.DataFrame:
    files = {"volumes": root / "volumes", "cases": root / "cases.parquet", "plans": root / "plan.json"}
    ingest.run(organ, params, raw=raw, **files)
    return pd.read_parquet(files["cases"]).set_index("case")


@pytest.fixture(scope="module")
def hippocampus(real_data: Path) -> Path:
    return real_data / "hippocampus"


@pytest.fixture(scope="module")
def ingested(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hippocampus, ingested once for all tests of it."""
    root = tmp_path_factory.mktemp("hippocampus")
    _ingest("hippocampus", HIPPOCAMPUS, hippocampus, root)
    return root


@pytest.fixture
def head_and_neck(real_data: Path, tmp_path: Path) -> Path:
    """Two cases, in a folder of their own."""
    for case in HEAD_AND_NECK_CASES:
        for kind in ("images", "labels"):
            target = tmp_path / "raw" / kind / f"{case}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(real_data / "head_and_neck" / kind / f"{case}.nii.gz", target)
    return tmp_path / "raw"


def test_every_hippocampus_is_accepted_and_the_orphans_are_quarantined(ingested: Path) -> None:
    table = pd.read_parquet(ingested / "cases.parquet").set_index("case")
    assert dict(table["status"].value_counts()) == {"accepted": 200, "quarantined": 3}
    assert dict(table.loc[table["status"] == "quarantined", "reason"]) == {
        "hippocampus_010": "hippocampus_010: label without an image",
        "hippocampus_118": "hippocampus_118: image without a label",
        "hippocampus_281": "hippocampus_281: label without an image",
    }
    assert len(list((ingested / "volumes").iterdir())) == 200


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
    assert layout.labels is not None
    assert sorted(layout.labels.values()) == [1, 2]


def test_a_hippocampus_is_stored_as_a_z_score_with_its_labels(ingested: Path) -> None:
    table = pd.read_parquet(ingested / "cases.parquet").set_index("case")
    stored = StoredCase(ingested / "volumes" / "hippocampus_004.b2nd")
    image, label = stored.image(), stored.label()
    assert abs(float(image.mean())) < 1e-3
    assert float(image.std()) == pytest.approx(1, abs=1e-3)
    counts = table.loc[["hippocampus_004"], ["voxels_anterior", "voxels_posterior"]].values.tolist()
    assert [np.bincount(label.ravel())[1:].tolist()] == counts
    plan = read_json(ingested / "plan.json")
    assert plan["spacing"] == [1.0, 1.0, 1.0]
    assert plan["fingerprint"]["cases"] == 200


def test_a_ct_that_is_not_in_hu_is_refused_with_the_parameter_that_mends_it(
    head_and_neck: Path, tmp_path: Path
) -> None:
    params = IngestParams(modality="CT", labels=HEAD_AND_NECK)
    with pytest.raises(DataError, match=r"none of 2 cases can be used.*ingest\.hu_offset"):
        _ingest("head_and_neck", params, head_and_neck, tmp_path)
    table = pd.read_parquet(tmp_path / "cases.parquet").set_index("case")
    assert sorted(table.index) == sorted(HEAD_AND_NECK_CASES)
    assert (table["status"] == "quarantined").all()
    for case, row in table.iterrows():
        assert str(row["reason"]).startswith(f"{case}: the lowest value is 0, but air is at -1000 HU")
        assert "ingest.hu_offset" in str(row["remedy"])


def test_with_its_offset_that_ct_is_accepted(head_and_neck: Path, tmp_path: Path) -> None:
    params = IngestParams(modality="CT", labels=HEAD_AND_NECK, hu_offset=-1000)
    table = _ingest("head_and_neck", params, head_and_neck, tmp_path)
    assert (table["status"] == "accepted").all()
    assert (table["intensity_min"] == -1000).all()
    assert (table["notes"] == "HU offset -1000 added").all()
    for case in HEAD_AND_NECK_CASES:
        volume = read_case(tmp_path / "volumes" / f"{case}.b2nd")
        brainstem = float(np.median(volume.image[volume.label == 1]))
        assert -50 < brainstem < 100, "soft tissue lies near water"
