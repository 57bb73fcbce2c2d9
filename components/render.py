"""What a component is by `dvc.yaml`: its Dockerfile and its Kubeflow description, written from there.

    python -m components.render

writes `components/<stage>/Dockerfile` and `component.yaml` of every stage. Only `requirements.txt`, what the
stage imports, is written by hand; a stage that is new gets one that holds everything, to be trimmed.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.graph import KEY, Stage, load_stages
from pipeline.workspace import stage_files

ROOT = Path(__file__).parents[1]
SHARED = re.compile(r"^-r \.\./(\w+)\.txt$", re.MULTILINE)
INSTALL = (
    "RUN --mount=type=bind,from=tools,source=/opt/pip,target=/mnt "
    "\\\n    --mount=type=secret,id=pip,target=/etc/pip.conf "
    "--mount=type=secret,id=uv,target=/etc/uv.env \\\n"
    "    /opt/hounsfield/build/install.sh"
)
"""Installs into the image with tools that are not in it."""
LAUNCH = ["python", "/opt/hounsfield/launch.py"]
"""How a component's container lays out its inputs and outputs (components/launch.py)."""
ARTIFACTS = {"data": "system.Dataset", "models": "system.Model"}
"""Kubeflow's types of what lies in a folder of the project."""


def main() -> None:
    """Write every component's files anew, and say which changed."""
    for stage in load_stages(ROOT).values():
        for path in write(ROOT, stage):
            print(f"written: {path.relative_to(ROOT)}")


def write(project: Path, stage: Stage) -> list[Path]:
    """Write the files of a stage's component where they differ from what they should be; those written."""
    folder = project / "components" / stage.name
    folder.mkdir(exist_ok=True)
    written = []
    if not (folder / "requirements.txt").exists():
        (folder / "requirements.txt").write_text(_everything(project))
        written.append(folder / "requirements.txt")
    for name, content in files(project, stage).items():
        path = folder / name
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            written.append(path)
    return written


def files(project: Path, stage: Stage) -> dict[str, str]:
    """What `Dockerfile` and `component.yaml` of a stage have to hold, by name."""
    return {
        "Dockerfile": dockerfile(project, stage),
        "component.yaml": component_text(project, stage),
    }


def dockerfile(project: Path, stage: Stage) -> str:
    """The Dockerfile of a stage: one layer for each list that its `requirements.txt` refers to."""
    requirements = (project / "components" / stage.name / "requirements.txt").read_text()
    # torch is the largest: it stands on what every image has.
    lists = ["common", *sorted(SHARED.findall(requirements), reverse=True)]
    layers = "".join(
        f"COPY components/{name}.* /opt/hounsfield/build/\n"
        f"{{run}} --requirement /opt/hounsfield/build/{name}.txt\n"
        for name in lists
    )
    template = (project / "components" / "Dockerfile.template").read_text()
    return template.replace("{layers}", layers).replace("{run}", INSTALL).replace("{stage}", stage.name)


def component_text(project: Path, stage: Stage) -> str:
    """The component of a stage as the file `component.yaml`."""
    head = f"# {stage.desc}.\n# Made from dvc.yaml by `python -m components.render`.\n"
    return head + yaml.safe_dump(component(project, stage), sort_keys=False, width=110)


def component(project: Path, stage: Stage, image: str = "") -> dict[str, Any]:
    """A stage as a Kubeflow (v2) container component: files are artifacts, sections are parameters."""
    roles = {role: path.as_posix() for role, path in stage_files(project, stage.name, KEY).items()}
    inputs = {role: path for role, path in roles.items() if path in stage.deps}
    outputs = {role: path for role, path in roles.items() if path in stage.products}
    parameters = {"organ": "STRING"} | {parameter_name(key): "STRUCT" for key in stage.params}
    described = {
        "inputDefinitions": {
            "artifacts": {role: _artifact(path) for role, path in inputs.items()},
            "parameters": {name: {"parameterType": kind} for name, kind in parameters.items()},
        },
        "outputDefinitions": {"artifacts": {role: _artifact(path) for role, path in outputs.items()}},
    }
    container = {
        "image": image or f"hounsfield/{stage.name}:latest",
        "command": LAUNCH,
        "args": [
            "--organ={{$.inputs.parameters['organ']}}",
            *(f"--param={key}={{{{$.inputs.parameters['{parameter_name(key)}']}}}}" for key in stage.params),
            *(f"--input={path}={{{{$.inputs.artifacts['{role}'].path}}}}" for role, path in inputs.items()),
            *(
                f"--output={path}={{{{$.outputs.artifacts['{role}'].path}}}}"
                for role, path in outputs.items()
            ),
            stage.cmd,
        ],
    }
    return {
        "components": {f"comp-{stage.name}": {"executorLabel": f"exec-{stage.name}"} | described},
        "deploymentSpec": {"executors": {f"exec-{stage.name}": {"container": container}}},
        "pipelineInfo": {"name": stage.name, "description": stage.desc},
        "root": {"dag": _alone(stage.name, list(inputs), list(outputs), list(parameters))} | _copy(described),
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.17.3",
    }


def parameter_name(key: str) -> str:
    """The parameter that carries a key of params.yaml: `organs.${key}.train` is `organs_train`."""
    return key.replace(f"{KEY}.", "").replace(".", "_")


def _artifact(path: str) -> dict[str, Any]:
    kind = ARTIFACTS.get(
        path.partition("/")[0], "system.HTML" if path.endswith(".html") else "system.Artifact"
    )
    return {"artifactType": {"schemaTitle": kind, "schemaVersion": "0.0.1"}}


def _alone(name: str, inputs: list[str], outputs: list[str], parameters: list[str]) -> dict[str, Any]:
    """The pipeline of this one task, which a component's file has to hold too."""
    return {
        "outputs": {
            "artifacts": {
                role: {"artifactSelectors": [{"outputArtifactKey": role, "producerSubtask": name}]}
                for role in outputs
            }
        },
        "tasks": {
            name: {
                "cachingOptions": {"enableCache": True},
                "componentRef": {"name": f"comp-{name}"},
                "inputs": {
                    "artifacts": {role: {"componentInputArtifact": role} for role in inputs},
                    "parameters": {key: {"componentInputParameter": key} for key in parameters},
                },
                "taskInfo": {"name": name},
            }
        },
    }


def _copy(described: dict[str, Any]) -> dict[str, Any]:
    """The same again, as objects of its own: YAML would write an alias."""
    copied: dict[str, Any] = yaml.safe_load(yaml.safe_dump(described))
    return copied


def _everything(project: Path) -> str:
    """All that any component asks for."""
    lines = {
        line: None
        for path in sorted((project / "components").glob("*/requirements.txt"))
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    }
    return "\n".join(sorted(lines)) + "\n"


if __name__ == "__main__":
    main()
