"""Each component against `dvc.yaml`, and the project that a component lays out for its stage."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import render
from components.launch import params_of
from pipeline.graph import load_stages
from pipeline.params import load_organ
from tests.conftest import ROOT, Project

BODIES = {
    name: stage["do"] for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
LISTS = {
    name: (ROOT / f"components/{name}.txt").read_text().split() for name in ("common", "formats", "torch")
}


def written(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "components" / stage / "component.yaml").read_text())
    return found


def container(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = written(stage)["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]
    return found


def handed(stage: str, option: str) -> dict[str, str]:
    """What the container is told by an option: place in the project, and Kubeflow's placeholder."""
    told = [
        text.removeprefix(f"--{option}=")
        for text in container(stage)["args"]
        if text.startswith(f"--{option}=")
    ]
    return dict(text.split("=", 1) for text in told)


def paths(stage: str, *kinds: str) -> set[str]:
    entries = [entry for kind in kinds for entry in BODIES[stage].get(kind, [])]
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


@pytest.mark.parametrize("stage", BODIES)
def test_command_files_and_parameters_are_those_of_dvc_yaml(stage: str) -> None:
    assert container(stage)["args"][-1] == BODIES[stage]["cmd"]
    assert set(handed(stage, "input")) == {
        path for path in paths(stage, "deps") if not path.startswith("pipeline/")
    }
    assert set(handed(stage, "output")) == paths(stage, "outs", "metrics", "plots")
    assert set(handed(stage, "param")) == set(BODIES[stage]["params"])


@pytest.mark.parametrize("stage", BODIES)
def test_what_the_container_is_told_is_declared_and_nothing_else(stage: str) -> None:
    declared = written(stage)["components"][f"comp-{stage}"]
    told = " ".join(container(stage)["args"])
    for kind, where in (("inputs", "inputDefinitions"), ("outputs", "outputDefinitions")):
        artifacts = re.findall(rf"\$\.{kind}\.artifacts\['(\w+)'\]", told)
        assert sorted(artifacts) == sorted(declared[where]["artifacts"])
    assert sorted(re.findall(r"\$\.inputs\.parameters\['(\w+)'\]", told)) == sorted(
        declared["inputDefinitions"]["parameters"]
    )


@pytest.mark.parametrize("stage", BODIES)
def test_files_are_as_the_template_and_dvc_yaml_make_them(stage: str) -> None:
    for name, content in render.files(ROOT, load_stages(ROOT)[stage]).items():
        assert (ROOT / "components" / stage / name).read_text() == content, "run: python -m components.render"


def test_a_file_has_one_type_wherever_it_is_handed_over() -> None:
    types: dict[str, set[str]] = {}
    for stage in BODIES:
        declared = written(stage)["components"][f"comp-{stage}"]
        for option, where in (("input", "inputDefinitions"), ("output", "outputDefinitions")):
            for place, value in handed(stage, option).items():
                role = value.split("'")[1]
                kind = declared[where]["artifacts"][role]["artifactType"]["schemaTitle"]
                types.setdefault(place, set()).add(kind)
    assert all(len(kinds) == 1 for kinds in types.values())


@pytest.mark.parametrize("stage", BODIES)
def test_dockerfile_is_pinned_without_root_and_leaves_its_tools_behind(stage: str) -> None:
    lines = (ROOT / "components" / stage / "Dockerfile").read_text().splitlines()
    assert "ARG BASE=python:3.11-slim-bookworm" in lines
    last = lines[len(lines) - 1 - lines[::-1].index("FROM $BASE") :]
    assert "USER 10001:10001" in last
    # What installs is mounted from another stage while it does, never copied.
    assert not [line for line in last if line.startswith("COPY --from=tools") and "/opt/pip" in line]
    runs = [line for line in last if line.startswith("RUN")]
    assert len(runs) >= 2
    assert all(
        line.startswith("RUN --mount=type=bind,from=tools,source=/opt/pip,target=/mnt ") for line in runs
    )
    assert "--constraint $home/build/requirements.txt" in (ROOT / "components/install.sh").read_text()


@pytest.mark.parametrize(
    "path", [*(f"components/{stage}/Dockerfile" for stage in BODIES), "infra/image/Dockerfile"]
)
def test_what_an_image_runs_may_be_read_there_whatever_the_umask_of_the_checkout(path: str) -> None:
    lines = (ROOT / path).read_text().splitlines()
    # What root alone reads, while it builds.
    built = ("/opt/hounsfield/build/", "/src/")
    copied = [line for line in lines if line.startswith("COPY ") and "--from=" not in line]
    run = [line for line in copied if not line.split()[-1].startswith(built)]
    assert run
    assert all(line.startswith("COPY --chmod=755 ") for line in run)


@pytest.mark.parametrize("stage", BODIES)
def test_requirements_hold_torch_and_readers_only_where_they_are_used(stage: str) -> None:
    asked = (ROOT / "components" / stage / "requirements.txt").read_text()
    assert ("formats.txt" in asked) == ("data/raw/${key}" in paths(stage, "deps"))
    assert ("torch.txt" in asked) == (
        BODIES[stage].get("meta", {}).get("gpu", False) or _imports_torch(stage)
    )


def _imports_torch(stage: str) -> bool:
    """Whether the stage's own file does: it is the one that is sure to be loaded."""
    tree = ast.parse((ROOT / f"pipeline/stages/{stage}.py").read_text())
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    return any(alias.name == "torch" for node in named for alias in node.names)


@pytest.mark.parametrize("stage", BODIES)
def test_all_that_loading_a_stage_imports_is_in_its_image(stage: str) -> None:
    asked = {"common", *re.findall(r"\.\./(\w+)\.txt", own(stage))}
    names = {name for known in asked for name in LISTS[known]} | set(own(stage).split())
    installed = {plain(name) for name in names} | {
        plain(re.split(r"[^\w.-]", need)[0])
        for name in names
        for need in requirements_of(name)
        if "extra ==" not in need
    }
    owners = packages_distributions()
    for module in imported_by(f"pipeline.stages.{stage}"):
        assert {plain(owner) for owner in owners[module]} & installed, f"{stage} imports {module}"


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def own(stage: str) -> str:
    return (ROOT / "components" / stage / "requirements.txt").read_text()


def requirements_of(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def imported_by(start: str) -> set[str]:
    """Libraries that the modules import as they are loaded, from the text of all that `start` leads to."""
    seen: set[Path] = set()
    libraries: set[str] = set()
    ahead = [start]
    while ahead:
        name = ahead.pop()
        place = ROOT / Path(*name.split("."))
        files = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
        if not name.startswith("pipeline"):
            libraries.add(name.partition(".")[0])
        for path in set(files) - seen:
            seen.add(path)
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.Import):
                    ahead += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    inner = node.module.startswith("pipeline")
                    ahead += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if inner)]
    return libraries - set(sys.stdlib_module_names)


def test_every_requirement_has_one_locked_version() -> None:
    locked = [line.split("==")[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    files = [*ROOT.glob("components/*.txt"), *ROOT.glob("components/*/requirements.txt")]
    asked = {line for file in files for line in file.read_text().splitlines() if re.match(r"\w[\w-]*$", line)}
    assert len(asked) > 15
    assert {name for name in asked if locked.count(name.replace("-", "_")) + locked.count(name) == 0} == set()


def test_a_new_stage_gets_its_files(tmp_path: Path) -> None:
    project = Project(tmp_path)
    add_stage(project.folder)
    stage = load_stages(project.folder)["smooth"]
    assert {path.name for path in render.write(project.folder, stage)} == {
        "requirements.txt",
        "Dockerfile",
        "component.yaml",
    }
    described = yaml.safe_load((tmp_path / "components/smooth/component.yaml").read_text())
    assert set(described["components"]["comp-smooth"]["inputDefinitions"]["artifacts"]) == {"models"}
    # It has everything, until somebody trims its list.
    assert "build/torch.txt" in (tmp_path / "components/smooth/Dockerfile").read_text()
    # Written once, then left alone.
    assert render.write(project.folder, stage) == []


def add_stage(project: Path) -> None:
    """Add a stage to a project's dvc.yaml, as a developer would."""
    content = yaml.safe_load((project / "dvc.yaml").read_text())
    content["stages"]["smooth"] = {
        "foreach": "${organs}",
        "do": {
            "cmd": "cp -r models/${key} models/smooth_${key}",
            "deps": ["models/${key}"],
            "outs": ["models/smooth/${key}.bin"],
        },
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def test_a_parameter_file_of_one_section_is_one_that_the_stage_accepts(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")
    given = {"defaults.train": {"seed": 3}, "organs.spleen.train": {"steps": 5}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params_of(given, "spleen", tmp_path)))
    train = load_organ(tmp_path / "params.yaml", "spleen").train
    assert (train.seed, train.steps) == (3, 5)


def launch(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("launch.py", "dvc.yaml"):
        shutil.copyfile(ROOT / ("components" if name == "launch.py" else "") / name, folder / name)
    command = [sys.executable, str(folder / "launch.py"), "--organ=spleen", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_launch_mixes_nothing_into_a_folder_that_holds_something(tmp_path: Path) -> None:
    foreign = tmp_path / "model/old.txt"
    foreign.parent.mkdir()
    foreign.touch()
    done = launch(tmp_path, f"--output=out={foreign.parent}", f"mkdir out && touch {tmp_path / 'ran'}")
    assert done.returncode == 2
    assert f"{foreign.parent} holds something already: empty it" in done.stderr
    assert list(foreign.parent.iterdir()) == [foreign]
    assert not (tmp_path / "ran").exists()


def test_launch_fills_an_empty_folder_and_leaves_nothing_of_a_killed_attempt(tmp_path: Path) -> None:
    (tmp_path / "made/model").mkdir(parents=True)
    (tmp_path / "made/.model.partial").mkdir()
    (tmp_path / "made/.model.partial/half").touch()
    done = launch(tmp_path, f"--output=out={tmp_path / 'made/model'}", "mkdir out && touch out/weights")
    assert done.returncode == 0
    assert [path.name for path in (tmp_path / "made").rglob("*")] == ["model", "weights"]


def test_launch_puts_a_file_in_the_place_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    done = launch(tmp_path, f"--output=out.txt={tmp_path / 'made'}", "echo cases > out.txt")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made").read_text() == "cases\n"


@pytest.mark.parametrize("fails", [False, True])
def test_launch_lays_inputs_out_and_takes_outputs_away(tmp_path: Path, fails: bool) -> None:
    for name in ("launch.py", "dvc.yaml"):
        shutil.copyfile(ROOT / ("components" if name == "launch.py" else "") / name, tmp_path / name)
    (tmp_path / "table").write_text("cases")
    told = 'cat data/cases/${key}.parquet params.yaml > "out ${key}.txt"' + ("; exit 3" if fails else "")
    done = subprocess.run(
        [
            *(sys.executable, str(tmp_path / "launch.py"), "--organ=spleen"),
            "--param=organs.${key}.patches=" + json.dumps({"size": [24.0, 0.5]}),
            f"--input=data/cases/${{key}}.parquet={tmp_path / 'table'}",
            f"--output=out ${{key}}.txt={tmp_path / 'made/by/kubeflow'}",
            told,
        ],
        check=False,
    )
    assert done.returncode == (3 if fails else 0)
    assert (tmp_path / "made/by/kubeflow").exists() == (not fails)
    if not fails:
        text = (tmp_path / "made/by/kubeflow").read_text()
        assert text.startswith("cases")
        params = yaml.safe_load(text.removeprefix("cases"))
        # Kubeflow's numbers all have a point; 24 voxels have none.
        assert repr(params["organs"]["spleen"]["patches"]) == "{'size': [24, 0.5]}"
