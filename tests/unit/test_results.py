import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import results
from pipeline.errors import DataError
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import Description

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(empty_project):
    """A project whose last decision made version 2 of the liver the champion."""
    (empty_project / "params.yaml").write_text("defaults: {}\norgans:\n  liver: {}\n")
    (empty_project / "registry").mkdir()
    decision = {"decision": "promoted", "champion_version": 2}
    (empty_project / "registry" / "liver.json").write_text(json.dumps(decision))
    return empty_project


def test_the_champion_is_the_one_of_the_registry_also_after_a_rollback(project, save_model, tmp_path):
    registry = ModelRegistry(project)
    versions = []
    for number in (1, 2):
        folder = save_model(tmp_path / f"version_{number}", {"liver": 5}, (-1000.0, 100.0 + number))
        versions.append(registry.register("liver", folder, [], Description()))
        registry.settle(versions[-1], promoted=True)
    registry.settle(versions[0], promoted=True)
    (result,) = results.collect(project)
    assert results.sentences(result) == ["liver: version 1 is the registered champion"]


def test_without_a_registry_the_champion_is_that_of_the_last_decision(project):
    (result,) = results.collect(project)
    assert (result.champion, result.decision) == (2, "promoted")


def test_where_the_registry_cannot_be_asked_the_champion_is_that_of_the_last_decision(
    project, monkeypatch, capsys
):
    broken = project / "broken"
    broken.mkdir()
    (broken / "mlflow.db").write_text("no database " * 100)
    monkeypatch.setenv("HOUNSFIELD_HOME", str(broken))
    (result,) = results.collect(project)
    assert result.champion == 2
    assert "liver: the champion is that of the last decision" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n{}\n", "[1]", "3"])
def test_a_decision_that_was_merged_badly_is_told(project, content):
    (project / "registry" / "liver.json").write_text(content)
    with pytest.raises(DataError, match=r"liver\.json is no JSON: settle the merge"):
        results.collect(project)


def test_a_label_with_brackets_is_no_markup():
    dice = {"mean": 0.5, "[left] kidney": 0.5, "[/right] kidney": 0.5}
    table = results.as_table([results.Result("kidneys", dice, None, 3, None, None, None, None)])
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    assert "[left] kidney" in console.file.getvalue()
    assert "[/right] kidney" in console.file.getvalue()


def test_regions_stand_below_the_mean_which_does_not_count_them():
    result = results.Result("tumour", {"mean": 0.5, "core": 0.5}, {"[whole]": 0.9}, 3, None, None, None, None)
    console = Console(width=80, file=io.StringIO())
    console.print(results.as_table([result]))
    _, mean, region = re.findall(r"^.*0\.\d{3}.*$", console.file.getvalue(), re.MULTILINE)
    assert "mean of 3 cases" in mean
    assert "[whole] (region)" in region
