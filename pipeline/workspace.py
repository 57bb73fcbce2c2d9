"""The project folder a command runs in: where a stage's files are, as `dvc.yaml` says.

`dvc.yaml` is the one description of the pipeline. A stage function takes its files as keyword
arguments; which argument a path belongs to is its *role*, the path without the organ and without
the leading `data/`:

    data/cases/spleen.parquet      -> cases
    reports/spleen/validation      -> validation
    models/spleen                  -> models

Dependencies under `pipeline/` are code, not arguments.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import MissingError, ParamsError
from pipeline.graph import KEY, PRODUCTS, paths_of

STAGES = ("ingest", "validate", "patches", "augment", "train", "evaluate", "register")


def project_root() -> Path:
    """The nearest folder at or above the current one that holds `dvc.yaml` and `params.yaml`.

    Raises:
        MissingError: there is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise MissingError(
        f"No dvc.yaml with params.yaml at or above {here}: change into your clone of the project."
    )


def home(root: Path) -> Path:
    """Where checkpoints and the local model registry live: `HOUNSFIELD_HOME`, else `.hounsfield`."""
    configured = os.environ.get("HOUNSFIELD_HOME")
    return Path(configured).absolute() if configured else root / ".hounsfield"


def stage_files(
    root: Path, stage: str, organ: str, kinds: Sequence[str] = ("deps", *PRODUCTS)
) -> dict[str, Path]:
    """The files of `stage` for `organ`, by role, relative to `root`, read from `dvc.yaml`.

    Args:
        root: of the project.
        stage: its name.
        organ: of params.yaml.
        kinds: of files, as `dvc.yaml` calls them.

    Raises:
        ParamsError: `dvc.yaml` has no such stage, or two of its paths have one role.
    """
    body = _body(root, stage)
    files: dict[str, Path] = {}
    for pattern in [pattern for kind in kinds for pattern in paths_of(body, kind)]:
        path = Path(pattern.replace(KEY, organ))
        if path.parts[0] == "pipeline":
            continue
        role = _role(pattern)
        if role in files:
            raise ParamsError(f"dvc.yaml, stage '{stage}': {files[role]} and {path} are both its '{role}'.")
        files[role] = path
    return files


def dependencies(root: Path, stage: str, organ: str) -> list[Path]:
    """What `dvc.yaml` says that `stage` reads for `organ`, code as well, relative to `root`.

    Raises:
        ParamsError: it has no such stage.
    """
    return [Path(pattern.replace(KEY, organ)) for pattern in paths_of(_body(root, stage), "deps")]


def _body(root: Path, stage: str) -> dict[str, Any]:
    try:
        body = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]["do"]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"dvc.yaml is not valid YAML: {str(error).replace(chr(10), ' ')}") from None
    except (KeyError, TypeError):
        raise ParamsError(f"dvc.yaml has no stage '{stage}' with a foreach over organs.") from None
    return dict(body)


def check_inputs(root: Path, stage: str, organ: str) -> None:
    """Refuse to run a stage before those that make its files.

    Stages of somebody's own, which are no foreach over the organs, are none of its business.

    Raises:
        MissingError: naming a file that is not there, and the stage that makes it.
    """
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    bodies = {name: one["do"] for name, one in stages.items() if "do" in one}
    made_by = {
        path: name for name, body in bodies.items() for kind in PRODUCTS for path in paths_of(body, kind)
    }
    for pattern in paths_of(bodies[stage], "deps"):
        path = pattern.replace(KEY, organ)
        if pattern in made_by and not (root / path).exists():
            raise MissingError(f"{path} is not there", f"run dvc repro {made_by[pattern]}@{organ}")


def _role(pattern: str) -> str:
    """The role of a path as dvc.yaml writes it: an organ may bear the name of a role."""
    parts = [part.partition(".")[0] for part in Path(pattern).parts]
    return next(part for part in reversed(parts) if part != KEY)
