"""What an organ is made with, why, and which key of `params.yaml` says otherwise.

What follows from the data stands in `data/plans/ORGAN.json`, which `ingest` writes; what follows from the
machine and the network is what `train` would choose here. `pin` writes all of it down, so that neither new
data nor another machine changes it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.atomic import read_json, write_text
from pipeline.errors import MissingError
from pipeline.params import OrganParams, load_organ
from pipeline.runs.editing import with_values
from pipeline.workspace import stage_files

SET = "as params.yaml says"
STALE = "of the last ingest; params.yaml says otherwise: run dvc repro ingest"
NEVER_PINNED = ("ingest.hu_offset", "train.loss.weights")
"""An offset that is set is added always, a found one not to negative values; weights are not planned."""


@dataclass(frozen=True)
class Choice:
    """One of what was planned."""

    key: str
    """Of `params.yaml`, below the organ, that holds it or would."""
    value: Any
    reason: str
    pinned: bool
    """Whether `params.yaml` says it."""


def choices(root: Path, organ: str) -> list[Choice]:
    """What the organ is made with on this machine, by the data as they were ingested last.

    Args:
        root: of the project.
        organ: one of `params.yaml`.

    Raises:
        MissingError: it was not ingested yet.
        ParamsError: `params.yaml` has no such organ, or a value that cannot be.
    """
    params = load_organ(root / "params.yaml", organ)
    path = root / stage_files(root, "ingest", organ)["plans"]
    if not path.is_file():
        raise MissingError(f"{organ}: there is no plan yet", f"run dvc repro ingest@{organ}")
    plan = read_json(path)
    return [*_of_data(params, plan), *_of_training(params, plan)]


def pin(root: Path, organ: str) -> list[Choice]:
    """Write what is planned into `params.yaml`; returns what was not there before.

    Raises:
        MissingError: as `choices`.
        ParamsError: as `choices`, or the file is written in a way that leaves no place for a value.
    """
    fresh = [one for one in choices(root, organ) if not one.pinned and one.key not in NEVER_PINNED]
    path = root / "params.yaml"
    text = path.read_bytes().decode("utf-8")
    places: dict[tuple[str, ...], Any] = {
        ("organs", organ, *choice.key.split(".")): choice.value for choice in fresh
    }
    write_text(path, with_values(text, places))
    return fresh


def _of_data(params: OrganParams, plan: Mapping[str, Any]) -> list[Choice]:
    reasons, ingest, size = plan["reasons"], params.ingest, params.patches.size
    found = [_choice("ingest.spacing", plan["spacing"], reasons["spacing"], ingest.spacing != "auto")]
    if ingest.spacing not in ("auto", tuple(plan["spacing"])):
        found = [replace(found[0], reason=STALE)]
    if plan["modality"] == "CT":
        offset = plan["recipe"]["offset"]["hu"]
        found.append(_choice("ingest.hu_offset", offset, reasons["offset"], ingest.hu_offset != "auto"))
    channels = {"channels": plan["normalisation"]}
    written = ingest.normalisation != "auto"
    found.append(_choice("ingest.normalisation", channels, reasons["normalisation"], written))
    planned = plan["patch_size"] if size == "auto" else list(size)
    found.append(_choice("patches.size", planned, reasons["patch_size"], size != "auto"))
    return found


def _of_training(params: OrganParams, plan: Mapping[str, Any]) -> list[Choice]:
    from pipeline.networks import plan_network
    from pipeline.training.profile import choose_profile, device

    train, size = params.train, params.patches.size
    profile = choose_profile(train, plan.get("batch_size"))
    machine = "there is a GPU" if device().type == "cuda" else "there is no GPU"
    by_profile = f"of the profile {profile.name}"
    batch = plan["reasons"]["batch_size"] if profile.batch_size == plan.get("batch_size") else by_profile
    found = [
        _choice("train.profile", profile.name, machine, train.profile != "auto"),
        _choice("train.batch_size", profile.batch_size, batch, train.batch_size != "auto"),
        _choice("train.steps", profile.steps, by_profile, train.steps != "auto"),
        _choice("train.learning_rate", profile.learning_rate, by_profile, train.learning_rate != "auto"),
    ]
    network = train.network
    z, y, x = plan["patch_size"] if size == "auto" else size
    options = plan_network(
        network.name, network.options, (z, y, x), plan["spacing"], small=profile.name == "small"
    )
    given = {key for key, value in network.options.items() if value != "auto"}
    for key, value in options.items():
        why = f"{network.name} for these patches, their spacing and the profile {profile.name}"
        found.append(_choice(f"train.network.{key}", _plain(value), why, key in given))
    weights = {"background": 1.0} | dict.fromkeys(plan["labels"], 1.0) | dict(train.loss.weights)
    why = "each label is at the centre of as many patches, however small it is"
    found.append(_choice("train.loss.weights", weights, why, bool(train.loss.weights)))
    return found


def _choice(key: str, value: Any, reason: str, pinned: bool) -> Choice:
    return Choice(key, value, SET if pinned else reason, pinned)


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML and JSON have them."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def as_json(found: list[Choice]) -> list[dict[str, Any]]:
    """For machines."""
    return [asdict(choice) for choice in found]


def as_table(organ: str, found: list[Choice]) -> Table:
    """For people."""
    table = Table("key", "value", "why", title=f"Plan of {organ}", title_justify="left")
    for choice in found:
        table.add_row(choice.key, _short(choice.value), choice.reason)
    return table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        joined = ", " if any(isinstance(one, list | dict) for one in value) else " x "
        return joined.join(map(_short, value))
    if isinstance(value, dict):
        return "; ".join(f"{key} {_short(one)}" for key, one in value.items())
    return str(value)
