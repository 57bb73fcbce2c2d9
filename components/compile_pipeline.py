"""Compile the Kubeflow pipeline of an organ from `dvc.yaml` and the components.

    python -m components.compile_pipeline spleen [--output kubeflow/spleen.yaml]

A stage is a task, a file that one makes and another reads is an artifact between them; what no stage makes
(the raw scans) is imported from an address that a run is given. Sections of `params.yaml` are parameters
of the run, with the file's values as defaults. A stage without a folder in `components/` is described from
`dvc.yaml` alone. Needs the environment of `components/requirements-kfp.txt`: `make kubeflow`.
"""

import argparse
import inspect
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, components, dsl

from components import render
from pipeline.graph import KEY, Stage, load_stages
from pipeline.workspace import stage_files

ROOT = Path(__file__).parents[1]
GPU = "nvidia.com/gpu"


def main() -> None:
    """Compile the pipeline of one organ to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("organ")
    parser.add_argument("--output", type=Path, help="default: kubeflow/ORGAN.yaml")
    parser.add_argument("--prefix", default="hounsfield/", help="what image names begin with")
    parser.add_argument("--tag", default="latest")
    parser.add_argument(
        "--env", action="append", default=[], type=_pair, metavar="NAME=VALUE", help="for every task; repeat"
    )
    asked = parser.parse_args()
    output = asked.output or ROOT / "kubeflow" / f"{asked.organ}.yaml"
    output.parent.mkdir(parents=True, exist_ok=True)
    pipeline = pipeline_of(ROOT, asked.organ, asked.prefix, asked.tag, dict(asked.env))
    compiler.Compiler().compile(pipeline, str(output))
    print(output)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is no NAME=VALUE")
    return name, value


def pipeline_of(project: Path, organ: str, prefix: str, tag: str, environment: dict[str, str]) -> Any:
    """The pipeline of all stages for `organ`, ready to be compiled."""
    stages = load_stages(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    if organ not in params["organs"]:
        raise SystemExit(f"params.yaml has no organ '{organ}'; it has {', '.join(params['organs'])}.")
    sources = _sources(project, stages)
    inputs = _inputs(stages, sources, params, organ)
    resources = _resources(params, organ)

    def pipeline(*values: Any) -> None:
        given = dict(zip([parameter.name for parameter in inputs], values, strict=True))
        artifacts = {
            path: dsl.importer(artifact_uri=given[name], artifact_class=dsl.Dataset).output
            for path, name in sources.items()
        }
        for stage in stages.values():
            files = _files(project, stage)
            task = _component(project, stage, f"{prefix}{stage.name}:{tag}")(
                organ=given["organ"],
                **{name: given[name] for name in map(render.parameter_name, stage.params)},
                **{role: artifacts[path] for role, path in files.items() if path in stage.deps},
            )
            task.set_display_name(stage.name)
            for name, value in environment.items():
                task.set_env_variable(name, value)
            _ask_for(task, resources.get(stage.name, resources.get("default", {})))
            artifacts |= {path: task.outputs[role] for role, path in files.items() if path in stage.products}

    pipeline.__signature__ = inspect.Signature(inputs)  # type: ignore[attr-defined]
    description = f"Hounsfield for {organ}: what dvc.yaml describes"
    return dsl.pipeline(name=f"hounsfield-{organ.replace('_', '-')}", description=description)(pipeline)


def _inputs(
    stages: dict[str, Stage], sources: dict[str, str], params: dict[str, Any], organ: str
) -> list[inspect.Parameter]:
    """What a run of the pipeline is given: addresses, the organ, and the sections of params.yaml."""
    sections = {
        render.parameter_name(key): _value(params, key.replace(KEY, organ))
        for stage in stages.values()
        for key in stage.params
    }
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [
        *(inspect.Parameter(name, kind, annotation=str) for name in sources.values()),
        inspect.Parameter("organ", kind, annotation=str, default=organ),
        *(inspect.Parameter(name, kind, annotation=dict, default=value) for name, value in sections.items()),
    ]


def _files(project: Path, stage: Stage) -> dict[str, str]:
    """The files of a stage by role, as `dvc.yaml` writes them."""
    return {role: path.as_posix() for role, path in stage_files(project, stage.name, KEY).items()}


def _sources(project: Path, stages: dict[str, Stage]) -> dict[str, str]:
    """Files that no stage makes, and the name of the run's parameter that says where each is."""
    makers = {path for stage in stages.values() for path in stage.products}
    sources = {
        path: f"{role}_uri"
        for stage in stages.values()
        for role, path in _files(project, stage).items()
        if path in stage.deps and path not in makers
    }
    for path in sources:
        inside = [
            made for made in makers if Path(path).is_relative_to(made) or Path(made).is_relative_to(path)
        ]
        if inside:
            raise SystemExit(
                f"dvc.yaml: of {path} and {inside[0]} one is a part of the other, but Kubeflow hands over "
                "whole outputs: write the same path in both places."
            )
    return sources


def _component(project: Path, stage: Stage, image: str) -> Any:
    """The component as its file has it, or as it would be written; its image by the name asked for."""
    path = project / "components" / stage.name / "component.yaml"
    described = yaml.safe_load(path.read_text()) if path.exists() else render.component(project, stage)
    described["deploymentSpec"]["executors"][f"exec-{stage.name}"]["container"]["image"] = image
    return components.load_component_from_text(yaml.safe_dump(described))


def _value(params: dict[str, Any], key: str) -> Any:
    """The section of params.yaml under a dotted key."""
    value: Any = params
    for part in key.split("."):
        value = (value or {}).get(part)
    return value or {}


def _resources(params: dict[str, Any], organ: str) -> dict[str, dict[str, dict[str, str]]]:
    """Requests and limits by stage: those of `kubernetes` in params.yaml, the organ's over the defaults."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for key in ("defaults.airflow", f"organs.{organ}.airflow"):
        found |= _value(params, f"{key}.kubernetes.resources")
    return found


def _ask_for(task: Any, resources: dict[str, dict[str, str]]) -> None:
    """Ask for processors, memory and a GPU as Kubernetes' own mappings say."""
    for kind, amounts in resources.items():
        for what in ("cpu", "memory"):
            if what in amounts:
                getattr(task, f"set_{what}_{kind.removesuffix('s')}")(str(amounts[what]))
    if GPU in resources.get("limits", {}):
        task.set_accelerator_type(GPU).set_accelerator_limit(int(resources["limits"][GPU]))


if __name__ == "__main__":
    main()
