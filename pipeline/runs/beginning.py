"""How `train` begins: from a champion or from scratch, written down as a parameter.

The parameter is the hash of the model's files. So the training is a function of its files still: what
it began from is in `params.yaml` of the run's commit, and another champion is another value.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.atomic import write_text
from pipeline.errors import MissingError, ParamsError
from pipeline.params import TrainParams, load_organ
from pipeline.progress import console
from pipeline.registry.artifacts import content_of
from pipeline.registry.models import ModelRegistry
from pipeline.runs.editing import with_values
from pipeline.runs.workspaces import Run
from pipeline.workspace import home

SCRATCH = "scratch"


def begin_with(run: Run, start: str) -> None:
    """Set `train.start` in the workspace's `params.yaml`.

    Args:
        run: whose workspace it is.
        start: warm, from the champion, or scratch.

    Raises:
        DataError: the champion's files are not those that were registered.
        MissingError: they are gone, or the registry cannot be used.
    """
    value = SCRATCH
    if start == "warm":
        champion = ModelRegistry(Path(run.project), Path(run.home)).champion(run.organ)
        if champion is None:
            console.print(f"{run.organ}: there is no champion to start from yet", markup=False)
        else:
            value = champion.content
            _keep(champion.folder, Path(run.home) / "champions" / champion.content)
    changes = {"start": value}
    if value == SCRATCH and load_organ(run.folder / "params.yaml", run.organ).train.transfer != "full":
        # Of nothing, nothing can stay as it is.
        changes["transfer"] = "full"
    _set(run.folder / "params.yaml", run.organ, changes)


def start_from(root: Path, organ: str, other: str, transfer: str, frozen_share: float | None) -> str:
    """Have the trainings of an organ begin with the champion of another one, from now on.

    Args:
        root: of the project, whose `params.yaml` is changed.
        organ: to be trained.
        other: whose champion it begins with; of another modality, too.
        transfer: full, partial or zero, as `train.transfer`.
        frozen_share: as `train.frozen_share`; None: as it is.

    Returns:
        The hash of the champion's files.

    Raises:
        MissingError: there is no such champion, or its files are gone.
        ParamsError: an organ is not in `params.yaml`, or a value is none that it may have.
    """
    path = root / "params.yaml"
    changes: dict[str, Any] = {"transfer": transfer}
    if frozen_share is not None:
        changes["frozen_share"] = frozen_share
    section = load_organ(path, organ).train.model_dump(exclude_defaults=True)
    load_organ(path, other)
    champion = ModelRegistry(root, home(root)).champion(other)
    if champion is None:
        raise MissingError(
            f"{other}: there is no champion to start from yet", f"run dvc repro register@{other}"
        )
    changes["start"] = champion.content
    try:
        TrainParams.model_validate(section | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise ParamsError(f"train.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _keep(champion.folder, home(root) / "champions" / champion.content)
    _set(path, organ, changes)
    return champion.content


def _set(path: Path, organ: str, changes: Mapping[str, Any]) -> None:
    text = path.read_bytes().decode("utf-8")
    places: dict[tuple[str, ...], Any] = {
        ("organs", organ, "train", key): value for key, value in changes.items()
    }
    write_text(path, with_values(text, places))


def _keep(folder: Path, kept: Path) -> None:
    """Have the model where `train` finds it without asking the registry, which it may not reach."""
    if kept.is_dir() and content_of(kept) == kept.name:
        return
    partial = kept.with_name(f".{kept.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.rename(kept)
