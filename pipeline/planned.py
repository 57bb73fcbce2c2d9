"""What an organ is made with, why, and which key of `params.yaml` says otherwise.

What follows from the data stands in `data/plans/ORGAN.json`, which `ingest` writes; what follows from the
machine and the network is what `train` would choose here. `pin` writes all of it down, so that neither new
data nor another machine changes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from pipeline.atomic import read_json
from pipeline.errors import MissingError, ParamsError
from pipeline.networks.compositions import NAMED
from pipeline.params import NetworkParams, OrganParams, load_organ, merge, read_params
from pipeline.runs.editing import change_params, with_values
from pipeline.sampling.weights import MOST
from pipeline.volumes.plan import asked
from pipeline.workspace import stage_files

SET = "as params.yaml says"
STALE = "of the last ingest; params.yaml says otherwise now"
NEVER_PINNED = ("ingest.hu_offset", "train.loss.weights")
"""An offset that is set is added always, a found one not to negative values; weights are not planned."""
FOLLOWS = {"train_memory_gb": "patches.size"}
"""By what ingest was asked for, what shows it; the others have keys of their own."""


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
    plan = _plan(root, organ)
    found = [*_of_data(params, plan), *_of_training(params, plan, _is_composed(root, organ))]
    # A patch that is pinned is as params.yaml says, whatever ingest would plan now.
    stale = _stale(params, plan) - {one.key for one in found if one.pinned and one.key in FOLLOWS.values()}
    return [replace(one, reason=STALE) if one.key in stale else one for one in found]


def pin(root: Path, organ: str) -> list[Choice]:
    """Write what is planned into `params.yaml`; returns what was not there before.

    Raises:
        MissingError: as `choices`.
        ParamsError: as `choices`; the plan is older than the parameters; or the file is written in a way that
            leaves no place for a value.
    """
    fresh: list[Choice] = []

    def pinned(text: str) -> str:
        fresh.extend(_unpinned(root, organ))
        return with_values(text, {("organs", organ, *one.key.split(".")): one.value for one in fresh})

    change_params(root, organ, pinned)
    return fresh


def _unpinned(root: Path, organ: str) -> list[Choice]:
    """What may be written into `params.yaml` and is not there."""
    found = choices(root, organ)
    stale = [one.key for one in found if one.reason == STALE]
    if stale:
        raise ParamsError(
            f"{organ}: {', '.join(stale)} is planned as params.yaml said before",
            f"run dvc repro ingest@{organ}, then pin",
        )
    return [one for one in found if not one.pinned and one.key not in NEVER_PINNED]


def _plan(root: Path, organ: str) -> dict[str, Any]:
    path = root / stage_files(root, "ingest", organ)["plans"]
    if not path.is_file():
        raise MissingError(f"{organ}: there is no plan yet", f"run dvc repro ingest@{organ}")
    return dict(read_json(path))


def _stale(params: OrganParams, plan: Mapping[str, Any]) -> set[str]:
    """Keys of what was planned before `params.yaml` said otherwise."""
    now = asked(params.ingest)
    before = plan.get("asked", now)
    # What is pinned says no other than what was found.
    found = {
        "spacing": plan["spacing"],
        "normalisation": {"windows": [], "channels": plan["normalisation"]},
    }
    changed = [key for key, value in now.items() if value not in (before.get(key), found.get(key))]
    return {FOLLOWS.get(key, f"ingest.{key}") for key in changed}


def _is_composed(root: Path, organ: str) -> bool:
    """Whether the network is named by a composition, whose networks have no keys in `params.yaml`."""
    content = read_params(root / "params.yaml")
    sections = [content["defaults"].get("train"), content["organs"][organ].get("train")]
    train = merge(*(section or {} for section in sections))
    return (train.get("network") or {}).get("name") in NAMED


def _of_data(params: OrganParams, plan: Mapping[str, Any]) -> list[Choice]:
    reasons, ingest, size = plan["reasons"], params.ingest, params.patches.size
    found = [_choice("ingest.spacing", plan["spacing"], reasons["spacing"], ingest.spacing != "auto")]
    if plan["modality"] == "CT":
        offset = plan["recipe"]["offset"]["hu"]
        found.append(_choice("ingest.hu_offset", offset, reasons["offset"], ingest.hu_offset != "auto"))
    channels = {"channels": plan["normalisation"]}
    wanted, key = ingest.normalisation, "ingest.normalisation"
    if wanted != "auto" and not wanted.channels and plan["modality"] == "MR":
        # Windows of HU say nothing of it, and what it is seen by follows from no data.
        found.append(Choice(key, channels, reasons["normalisation"], pinned=True))
    else:
        found.append(_choice(key, channels, reasons["normalisation"], wanted != "auto"))
    planned = plan["patch_size"] if size == "auto" else list(size)
    found.append(_choice("patches.size", planned, reasons["patch_size"], size != "auto"))
    return found


def _of_training(params: OrganParams, plan: Mapping[str, Any], composed: bool) -> list[Choice]:
    from pipeline.training.profile import choose_profile, device

    train = params.train
    profile = choose_profile(train, plan.get("batch_size"))
    machine = "there is a GPU" if device().type == "cuda" else "there is no GPU"
    by_profile = f"of the profile {profile.name}"
    planned = profile.name == "full" and plan.get("batch_size")
    batch = plan["reasons"]["batch_size"] if planned else by_profile
    found = [
        _choice("train.profile", profile.name, machine, train.profile != "auto"),
        _choice("train.batch_size", profile.batch_size, batch, train.batch_size != "auto"),
        _choice("train.steps", profile.steps, by_profile, train.steps != "auto"),
        _choice("train.learning_rate", profile.learning_rate, by_profile, train.learning_rate != "auto"),
    ]
    if not composed:
        found += _of_network("train.network", train.network, params, plan, profile.name)
        if train.before is not None:
            key = "train.before.network"
            found += _of_network(key, train.before.network, params, plan, profile.name)
    weights = {"background": 1.0} | dict.fromkeys(plan["labels"], 1.0) | dict(train.loss.weights)
    why = (
        "each label is at the centre of as many patches, however small or rare it is, unless its patches "
        f"would weigh more than {MOST:g} times the mean"
    )
    found.append(_choice("train.loss.weights", weights, why, bool(train.loss.weights)))
    return found


def _of_network(
    key: str, network: NetworkParams, params: OrganParams, plan: Mapping[str, Any], profile: str
) -> list[Choice]:
    from pipeline.networks import plan_network

    size = params.patches.size
    z, y, x = plan["patch_size"] if size == "auto" else size
    small = profile == "small"
    options = plan_network(network.name, network.options, (z, y, x), plan["spacing"], small=small)
    given = {name for name, value in network.options.items() if value != "auto"}
    why = f"{network.name} for these patches, their spacing and the profile {profile}"
    return [_choice(f"{key}.{name}", _plain(value), why, name in given) for name, value in options.items()]


def _choice(key: str, value: Any, reason: str, pinned: bool) -> Choice:
    return Choice(key, value, SET if pinned else reason, pinned)


def _plain(value: Any) -> Any:
    """Tuples as lists, as YAML and JSON have them."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def as_table(organ: str, found: list[Choice]) -> Table:
    """For people."""
    table = Table("key", "value", "why", title=f"Plan of {organ}", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    for choice in found:
        table.add_row(choice.key, escape(_short(choice.value)), escape(choice.reason))
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
