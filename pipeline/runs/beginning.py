"""How `train` begins: from a champion or from scratch, written down as a parameter.

The parameter is the hash of the model's files. So the training is a function of its files still: what
it began from is in `params.yaml` of the run's commit, and another champion is another value.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ParamsError
from pipeline.mistakes import first_problem
from pipeline.params import TrainParams, load_organ
from pipeline.progress import console
from pipeline.registry.asked import missing_champion
from pipeline.registry.folders import fetched
from pipeline.registry.models import ModelRegistry
from pipeline.registry.version import RegisteredModel
from pipeline.runs.editing import change_params, with_values
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
            _keep(champion, Path(run.home))
    changes = {"start": value}
    if value == SCRATCH and load_organ(run.folder / "params.yaml", run.organ).train.transfer != "full":
        # Of nothing, nothing can stay as it is.
        changes["transfer"] = "full"
    _set(run.folder, run.organ, changes)


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
    changes["start"] = _fetched_champion(root, other)
    try:
        TrainParams.model_validate(section | changes)
    except ValidationError as error:
        raise ParamsError(f"train.{first_problem(error, TrainParams)}") from None
    _set(root, organ, changes)
    return str(changes["start"])


def mine_from_champion(root: Path, organ: str, share: float) -> str:
    """Have patches drawn where the champion sees the organ and it is not, from now on.

    Args:
        root: of the project, whose `params.yaml` is changed.
        organ: whose champion and patches.
        share: of such patches; those of the other kinds give way in proportion.

    Returns:
        The hash of the champion's files.

    Raises:
        MissingError: there is no champion, or its files are gone.
        ParamsError: the share is none, no other kind has one, or patches lie on a grid, whatever is there.
    """
    if load_organ(root / "params.yaml", organ).patches.mode == "grid":
        raise ParamsError(
            f"{organ}: patches lie on a grid, so that none can lie where the champion is wrong",
            f"set organs.{organ}.patches.mode to random",
        )
    if not 0 < share < 1:
        raise ParamsError(f"the share of hard negatives is {share:g}: it lies between 0 and 1")
    content = _fetched_champion(root, organ)
    section = ("organs", organ, "patches")
    named: dict[tuple[str, ...], Any] = {
        (*section, "hard_negatives", "of"): "model",
        (*section, "hard_negatives", "model"): content,
    }

    def mined(text: str) -> str:
        shares = _with_hard(root, organ, share)
        return with_values(text, {(*section, "shares", kind): one for kind, one in shares.items()} | named)

    change_params(root, organ, mined)
    return content


def _with_hard(root: Path, organ: str, share: float) -> dict[str, float]:
    """The shares of all kinds of patches, that of hard negatives among them."""
    shares = load_organ(root / "params.yaml", organ).patches.shares.model_dump(exclude={"hard"})
    total = sum(shares.values())
    if not total:
        raise ParamsError(
            f"{organ}: no other kind of patch has a share, so the rest of {1 - share:g} would be of none",
            f"give them one, under organs.{organ}.patches.shares",
        )
    wanted = {kind: round((1 - share) * value / total, 6) for kind, value in shares.items()}
    return wanted | {"hard": round(1 - sum(wanted.values()), 6)}


def _fetched_champion(root: Path, organ: str) -> str:
    """The content of an organ's champion, whose files lie where stages find them."""
    champion = ModelRegistry(root, home(root)).champion(organ)
    if champion is None:
        raise missing_champion(root, organ)
    _keep(champion, home(root))
    return champion.content


def _set(root: Path, organ: str, changes: Mapping[str, Any]) -> None:
    places: dict[tuple[str, ...], Any] = {
        ("organs", organ, "train", key): value for key, value in changes.items()
    }
    change_params(root, organ, lambda text: with_values(text, places))


def _keep(champion: RegisteredModel, at: Path) -> None:
    """Have the model where `train` finds it without asking the registry, which it may not reach."""
    fetched(at, champion.content, lambda scratch: Path(shutil.copytree(champion.folder, scratch / "model")))
