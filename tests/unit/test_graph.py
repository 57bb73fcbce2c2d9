import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.errors import MissingError, ParamsError
from pipeline.graph import load_stages

ROOT = Path(__file__).parents[2]


def write(folder: Path, **stages: object) -> Path:
    body = {name: {"foreach": "${organs}", "do": do} for name, do in stages.items()}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": body}, sort_keys=False))
    return folder


def test_the_pipeline_of_this_project() -> None:
    stages = load_stages(ROOT)
    assert list(stages) == ["ingest", "validate", "patches", "augment", "train", "evaluate", "register"]
    assert stages["ingest"].needs == ()
    assert stages["train"].needs == ("ingest", "validate", "patches", "augment")
    assert stages["evaluate"].needs == ("validate", "train")
    assert stages["register"].needs == ("validate", "train", "evaluate")


def test_a_stage_is_told_as_the_file_has_it() -> None:
    train = load_stages(ROOT)["train"]
    assert train.cmd == "python -m pipeline train ${key}"
    assert train.params == ("defaults.train", "organs.${key}.train")
    assert train.outs == ("models/${key}",)
    assert train.plots == ("reports/${key}/curves.csv",)
    assert train.products == ("models/${key}", "reports/${key}/curves.csv")
    assert "data/volumes/${key}" in train.deps
    assert train.desc.startswith("The network")


def test_what_computes_on_a_gpu_is_known() -> None:
    stages = load_stages(ROOT)
    assert [name for name, stage in stages.items() if stage.meta.get("gpu")] == [
        "train",
        "evaluate",
        "register",
    ]


def test_all_of_pipeline_volumes_is_code_that_ingest_runs() -> None:
    """Every volume is made anew when code of that folder changes."""
    folder = ROOT / "pipeline/volumes"
    # Layouts and formats are loaded by name.
    by_name = [*folder.glob("layouts/*.py"), *folder.glob("readers/*.py")]
    loaded = imported_by(ROOT / "pipeline/stages/ingest.py", *by_name)
    assert set(folder.rglob("*.py")) - loaded == set()


def imported_by(*files: Path) -> set[Path]:
    """The files of the package that these lead to, themselves and those that functions import included."""
    seen: set[Path] = set()
    ahead = list(files)
    while ahead:
        file = ahead.pop()
        if not file.is_file() or file in seen:
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
                places = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                ahead += [ROOT / f"{place.replace('.', '/')}.py" for place in places]
                ahead += [ROOT / place.replace(".", "/") / "__init__.py" for place in places]
    return seen


def test_a_stage_stands_behind_what_it_needs_wherever_it_is_written(tmp_path: Path) -> None:
    write(
        tmp_path,
        last={"cmd": "c", "deps": ["b/${key}"]},
        first={"cmd": "a", "outs": ["a/${key}"]},
        middle={"cmd": "b", "deps": ["a/${key}"], "outs": ["b/${key}"]},
    )
    assert list(load_stages(tmp_path)) == ["first", "middle", "last"]


def test_a_file_in_a_folder_that_a_stage_makes_is_an_edge_and_so_is_the_folder_around_one(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        maker={"cmd": "a", "outs": ["models/${key}", "reports/${key}/page.html"]},
        reads_a_file={"cmd": "b", "deps": ["models/${key}/weights"]},
        reads_the_folder={"cmd": "c", "deps": ["reports/${key}"]},
        reads_a_neighbour={"cmd": "d", "deps": ["models/${key}_other"]},
    )
    needs = {name: stage.needs for name, stage in load_stages(tmp_path).items()}
    assert needs["reads_a_file"] == needs["reads_the_folder"] == ("maker",)
    assert needs["reads_a_neighbour"] == ()


def test_several_commands_and_parameters_of_another_file(tmp_path: Path) -> None:
    write(tmp_path, one={"cmd": ["a", "b"], "params": ["x.y", {"other.yaml": ["z"]}, {"all.yaml": None}]})
    stage = load_stages(tmp_path)["one"]
    assert stage.cmd == "a && b"
    assert stage.params == ("x.y", "other.yaml:z", "all.yaml:*")


def test_a_circle_is_refused_with_its_stages(tmp_path: Path) -> None:
    write(
        tmp_path, a={"cmd": "a", "deps": ["b"], "outs": ["a"]}, b={"cmd": "b", "deps": ["a"], "outs": ["b"]}
    )
    with pytest.raises(ParamsError, match=r"circle, (a -> b -> a|b -> a -> b)"):
        load_stages(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "stages: {train: {cmd: x}}",
        "stages: {train: {foreach: [a], do: {cmd: x}}}",
        'stages: {train: {foreach: "${organs}", do: {deps: [x]}}}',
    ],
)
def test_a_stage_that_is_not_for_every_organ_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(ParamsError, match="'train'"):
        load_stages(tmp_path)


@pytest.mark.parametrize("text", ["", "stages:", "- a", "stages: [", "stages: {}"])
def test_a_file_that_is_no_pipeline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"dvc\.yaml"):
        load_stages(tmp_path)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"dvc\.yaml"):
        load_stages(tmp_path)


@pytest.mark.parametrize("module", ["pipeline.graph", "pipeline.runs.commands", "pipeline.registry.models"])
def test_nothing_heavy_is_imported(module: str) -> None:
    heavy = {"torch", "mlflow", "dvc", "airflow", "numpy", "pandas", "pydantic"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
