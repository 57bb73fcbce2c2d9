"""The stages of `dvc.yaml` and the edges between them, read from the file alone.

What renders the pipeline elsewhere (Airflow's DAGs, the containers' descriptions, the compiled Kubeflow
pipeline) asks here, so that no stage, edge or path is listed a second time. Only a YAML parser is
imported: a scheduler reads this every few seconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from pipeline.errors import MissingError, ParamsError

KEY = "${key}"
"""Stands for the organ in every command, path and parameter of a stage."""
PRODUCTS = ("outs", "metrics", "plots")


@dataclass(frozen=True)
class Stage:
    """A stage as `dvc.yaml` has it; paths, parameters and the command still hold `${key}`."""

    name: str
    desc: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[str, ...]
    """Dotted keys of params.yaml; those of another file as `FILE:KEY`."""
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    needs: tuple[str, ...]
    """The stages that make what this one reads, in the order of the pipeline."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What the file says for whoever runs the stage: `gpu`, whether it computes on one."""

    @property
    def products(self) -> tuple[str, ...]:
        """Everything the stage writes."""
        return self.outs + self.metrics + self.plots


def load_stages(project: Path) -> dict[str, Stage]:
    """The stages of `project/dvc.yaml` by name, each after those it needs.

    Raises:
        MissingError: there is no `dvc.yaml`.
        ParamsError: it is no pipeline of stages with a foreach over the organs, or runs in a circle.
    """
    bodies = _bodies(project / "dvc.yaml")
    made_by = {
        product: name
        for name, body in bodies.items()
        for kind in PRODUCTS
        for product in paths_of(body, kind)
    }
    needs = {name: _needs(paths_of(body, "deps"), made_by) for name, body in bodies.items()}
    order = _sorted(needs)
    return {name: _stage(name, bodies[name], tuple(sorted(needs[name], key=order.index))) for name in order}


def _bodies(path: Path) -> dict[str, dict[str, Any]]:
    """What stands under `do` of every stage."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path} is not there; a clone of the project has it.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {str(error).replace(chr(10), ' ')}") from None
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict) or not stages:
        raise ParamsError(f"{path} has no mapping 'stages'.")
    for name, stage in stages.items():
        if not (isinstance(stage, dict) and stage.get("foreach") == "${organs}" and _has_command(stage)):
            raise ParamsError(
                f"dvc.yaml: the stage '{name}' cannot be run for one organ: "
                "give it 'foreach: ${organs}' and a 'do' with its 'cmd'."
            )
    return {name: stage["do"] for name, stage in stages.items()}


def _has_command(stage: dict[str, Any]) -> bool:
    return isinstance(stage.get("do"), dict) and bool(stage["do"].get("cmd"))


def _needs(deps: Iterable[str], made_by: dict[str, str]) -> set[str]:
    """The stages that make a dependency, a file in it, or the folder it is in."""
    return {
        maker
        for dep in map(PurePosixPath, deps)
        for product, maker in made_by.items()
        if dep.is_relative_to(product) or PurePosixPath(product).is_relative_to(dep)
    }


def _sorted(needs: dict[str, set[str]]) -> list[str]:
    """Names so that each stands behind what it needs; otherwise in the order of the file."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ParamsError(
            f"dvc.yaml: the stages run in a circle, {circle}: take one dependency out."
        ) from None
    order: list[str] = []
    while len(order) < len(needs):
        order.append(next(name for name in needs if name not in order and needs[name] <= set(order)))
    return order


def _stage(name: str, body: dict[str, Any], needs: tuple[str, ...]) -> Stage:
    command = body["cmd"]
    return Stage(
        name=name,
        desc=str(body.get("desc", "")),
        cmd=" && ".join(command) if isinstance(command, list) else str(command),
        deps=paths_of(body, "deps"),
        outs=paths_of(body, "outs"),
        params=_params(body),
        metrics=paths_of(body, "metrics"),
        plots=paths_of(body, "plots"),
        needs=needs,
        meta=dict(body.get("meta") or {}),
    )


def paths_of(body: dict[str, Any], kind: str) -> tuple[str, ...]:
    """A path in dvc.yaml is a string, or a mapping from the path to its options."""
    return tuple(
        str(next(iter(entry))) if isinstance(entry, dict) else str(entry) for entry in body.get(kind, [])
    )


def _params(body: dict[str, Any]) -> tuple[str, ...]:
    """A parameter in dvc.yaml is a key of params.yaml, or a mapping from another file to its keys."""
    keys: list[str] = []
    for entry in body.get("params", []):
        if isinstance(entry, dict):
            keys += [f"{file}:{key}" for file, names in entry.items() for key in names or ["*"]]
        else:
            keys.append(str(entry))
    return tuple(keys)
