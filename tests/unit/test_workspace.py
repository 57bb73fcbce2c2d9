import importlib
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from pipeline.errors import MissingError, ParamsError
from pipeline.params import load_organ, read_params
from pipeline.workspace import STAGES, check_inputs, home, project_root, stage_files

PROJECT = Path(__file__).parents[2]


def _describe(folder: Path, **stage: Any) -> Path:
    """A dvc.yaml with one stage, `draw`."""
    content = {"stages": {"draw": {"foreach": "${organs}", "do": {"cmd": "true", **stage}}}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_dvc_runs_the_stages_that_the_code_knows_in_this_order() -> None:
    assert tuple(yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]) == STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_exactly_the_files_that_dvc_gives_it(stage: str) -> None:
    run = importlib.import_module(f"pipeline.stages.{stage}").run
    parameters = inspect.signature(run).parameters
    keywords = [each for each in parameters.values() if each.kind is inspect.Parameter.KEYWORD_ONLY]
    needed = {each.name for each in keywords if each.default is inspect.Parameter.empty}
    assert needed == stage_files(PROJECT, stage, "spleen").keys()
    assert list(parameters)[:2] == ["organ", "params"]
    assert len(parameters) == 2 + len(keywords)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_its_own_section_of_the_parameters(stage: str) -> None:
    organ = next(iter(read_params(PROJECT / "params.yaml")["organs"]))
    hints = get_type_hints(importlib.import_module(f"pipeline.stages.{stage}").run)
    assert hints["params"] is type(load_organ(PROJECT / "params.yaml", organ).section(stage))
    assert hints["organ"] is str
    assert all(hints[role] is Path for role in stage_files(PROJECT, stage, organ))


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_parameters_and_the_code_of_a_stage(stage: str) -> None:
    body = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"][stage]["do"]
    assert body["cmd"] == f"python -m pipeline {stage} ${{key}}"
    assert f"defaults.{stage}" in body["params"]
    assert f"organs.${{key}}.{stage}" in body["params"]
    assert f"pipeline/stages/{stage}.py" in body["deps"]
    assert all((PROJECT / path).exists() for path in body["deps"] if path.startswith("pipeline/"))


def test_the_files_of_a_stage_by_role() -> None:
    assert stage_files(PROJECT, "ingest", "spleen") == {
        "raw": Path("data/raw/spleen"),
        "volumes": Path("data/volumes/spleen"),
        "cases": Path("data/cases/spleen.parquet"),
        "plans": Path("data/plans/spleen.json"),
    }


def test_paths_with_options_metrics_and_plots_count_and_code_does_not(tmp_path: Path) -> None:
    root = _describe(
        tmp_path,
        deps=["pipeline/sampling", "data/raw/${key}"],
        outs=[{"data/volumes/${key}": {"persist": True}}, "reports/${key}/page.html"],
        metrics=[{"metrics/${key}.json": {"cache": False}}],
        plots=[{"reports/${key}/curves.csv": {"x": "step"}}],
    )
    assert stage_files(root, "draw", "liver") == {
        "raw": Path("data/raw/liver"),
        "volumes": Path("data/volumes/liver"),
        "page": Path("reports/liver/page.html"),
        "metrics": Path("metrics/liver.json"),
        "curves": Path("reports/liver/curves.csv"),
    }


@pytest.mark.parametrize("organ", ["cases", "raw", "metrics", "models", "data", "reports", "pipeline"])
@pytest.mark.parametrize("stage", STAGES)
def test_an_organ_may_bear_the_name_of_a_role(stage: str, organ: str) -> None:
    files = stage_files(PROJECT, stage, organ)
    plain = stage_files(PROJECT, stage, "spleen")
    assert {
        role: Path(*(part.replace("spleen", organ) for part in path.parts)) for role, path in plain.items()
    } == files


def test_two_paths_of_one_role_are_refused(tmp_path: Path) -> None:
    root = _describe(tmp_path, deps=["data/cases/${key}.parquet"], outs=["reports/${key}/cases.csv"])
    with pytest.raises(ParamsError, match="are both its 'cases'"):
        stage_files(root, "draw", "liver")


@pytest.mark.parametrize("content", ["", "stages: {}", "stages: {train: {cmd: x}}", "- a", "stages: [a]"])
def test_a_stage_that_is_not_described_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "dvc.yaml").write_text(content)
    with pytest.raises(ParamsError, match="no stage 'train'"):
        stage_files(tmp_path, "train", "liver")


@pytest.mark.parametrize("content", [b"stages: {", b"stages: \xff"])
def test_a_description_that_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dvc.yaml").write_bytes(content)
    with pytest.raises(ParamsError, match="not valid YAML"):
        stage_files(tmp_path, "train", "liver")


def test_the_root_is_found_from_any_folder_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").touch()
    deep = tmp_path / "data" / "raw"
    deep.mkdir(parents=True)
    # A folder with one of the two is not the root.
    (tmp_path / "data" / "dvc.yaml").touch()
    for folder in (deep, tmp_path):
        monkeypatch.chdir(folder)
        assert project_root() == tmp_path


def test_outside_of_a_project_there_is_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="clone of the project"):
        project_root()


def test_home_is_in_the_project_unless_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOUNSFIELD_HOME", raising=False)
    assert home(tmp_path) == tmp_path / ".hounsfield"
    monkeypatch.setenv("HOUNSFIELD_HOME", str(tmp_path / "elsewhere"))
    assert home(tmp_path / "project") == tmp_path / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOUNSFIELD_HOME", "here")
    assert home(tmp_path / "project") == tmp_path / "here"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_before_its_predecessor_names_the_file_and_the_stage_that_makes_it(
    empty_project: Path, stage: str
) -> None:
    with pytest.raises(MissingError, match=r"spleen\S* is not there: run dvc repro \w+@spleen"):
        check_inputs(empty_project, stage, "spleen")


def test_a_stage_whose_data_are_there_may_run(empty_project: Path) -> None:
    check_inputs(empty_project, "ingest", "spleen")
    _make(empty_project, "data/plans/spleen.json", "data/accepted/spleen.parquet")
    with pytest.raises(MissingError, match=r"data/patches/spleen\.parquet .* patches@spleen"):
        check_inputs(empty_project, "train", "spleen")
    _make(empty_project, "data/volumes/spleen/a.b2nd")
    check_inputs(empty_project, "patches", "spleen")


def test_a_stage_of_somebodys_own_is_in_no_way(empty_project: Path) -> None:
    text = (empty_project / "dvc.yaml").read_text()
    own = ["  all: {cmd: echo}", "  each: {foreach: [a, b], do: {cmd: 'echo ${item}', deps: [notes.md]}}"]
    (empty_project / "dvc.yaml").write_text("\n".join([text.rstrip(), *own, ""]))
    check_inputs(empty_project, "ingest", "spleen")


def _make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
