import json
import shutil

import pandas as pd
import pytest

from pipeline import drift
from pipeline.errors import MissingError, ParamsError
from pipeline.registry.version import RegisteredModel
from pipeline.validation.drift import fingerprint
from tests.conftest import ROOT

PLAN = {"modality": "CT", "labels": {"liver": 1}}
DVC = """
stages:
  validate:
    foreach: ${organs}
    do:
      deps: ["data/plans/${key}.json"]
      outs: ["data/accepted/${key}.parquet"]
"""


def table(liver=1500.0):
    rows = [
        {f"spacing_{axis}": 1.0 + number / 50 for axis in "zyx"}
        | {"ml_liver": liver + 10 * number, "histogram": json.dumps([1 / 64] * 64), "scanner": "One"}
        for number in range(20)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with accepted cases, and a champion whose configuration a test writes."""
    (tmp_path / "dvc.yaml").write_text(DVC)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for folder in ("plans", "accepted"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data/plans/abdomen.json").write_text(json.dumps(PLAN))
    table().to_parquet(tmp_path / "data/accepted/abdomen.parquet")
    (tmp_path / "champion").mkdir()
    model = RegisteredModel("abdomen", 3, "content", tmp_path / "champion")

    class Registry:
        def __init__(self, root):
            assert root == tmp_path

        def champion(self, organ):
            return model if (model.folder / "config.json").is_file() else None

    monkeypatch.setattr(drift, "ModelRegistry", Registry)
    return tmp_path


def configure(project, **config):
    (project / "champion/config.json").write_text(json.dumps(config))


def test_the_data_are_compared_and_the_page_is_written(project):
    configure(project, fingerprint_data=fingerprint(table(liver=700.0), PLAN))
    found = drift.compare(project, "abdomen")
    assert found.champion == 3
    assert found.record()["drift"] == "strong"
    assert {row.what: row.verdict for row in found.rows}["spacing along z"] == "none"
    page = project / "reports/abdomen/drift.html"
    assert "volume of liver" in page.read_text()
    assert "reports/abdomen/drift.html" in found.sentences()[1]
    before = page.read_bytes()
    drift.compare(project, "abdomen")
    assert page.read_bytes() == before


def test_a_champion_without_a_fingerprint_is_said_in_one_sentence(project):
    configure(project, name="unet")
    found = drift.compare(project, "abdomen")
    assert found.sentences() == [
        "abdomen: version 3 does not say what data it was trained on; a new one will."
    ]
    assert (found.rows, found.page) == ([], None)


def test_without_a_champion_there_is_nothing_to_compare_with(project):
    found = drift.compare(project, "abdomen")
    assert found.sentences() == ["abdomen has no champion yet: nothing to compare with."]
    assert json.loads(json.dumps(found.record()))["drift"] is None


@pytest.mark.parametrize("absent", ["data/accepted/abdomen.parquet", "data/plans/abdomen.json"])
def test_without_cases_or_a_plan_the_stage_to_run_is_named(project, absent):
    configure(project, fingerprint_data=fingerprint(table(), PLAN))
    (project / absent).unlink()
    with pytest.raises(MissingError, match=f"{absent} is not there: run dvc repro validate@abdomen"):
        drift.compare(project, "abdomen")


def test_an_organ_that_is_none_is_told_as_such(project):
    with pytest.raises(ParamsError, match="no organ 'abdomn': did you mean 'abdomen'"):
        drift.compare(project, "abdomn")
