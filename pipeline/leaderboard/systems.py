"""What can stand on a leaderboard: a network or composition by name, and changes of `train`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import ParamsError
from pipeline.mistakes import first_problem
from pipeline.networks import names
from pipeline.networks.compositions import NAMED
from pipeline.params import TrainParams, merge

OWN = ("network", "before", "loss", "start", "transfer", "steps", "profile", "validate_every")
"""Keys of `train` that a system has of its own, whatever the organ says."""
SHARED = ("steps", "profile", "before.steps", "network.steps", "start")
"""Keys of `train` that are the same for all systems, so that the budget is; what the model of `start` has
learned before is not part of it."""


@dataclass(frozen=True)
class Budget:
    """What every system may spend on its training."""

    kind: str
    """seconds: of steps, as they are timed before; voxels: of patches, as often as they are seen."""
    amount: float

    def __str__(self) -> str:
        """For people."""
        return f"{self.amount:,.0f} {self.kind}"


@dataclass(frozen=True)
class System:
    """One line of a leaderboard."""

    name: str
    """As it was asked for: a network or composition, and changes with commas between them."""
    changes: Mapping[str, Any]
    """Of the section `train`."""

    @property
    def folder(self) -> str:
        """A name for its files."""
        return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in self.name)

    def params(self, organ: TrainParams, profile: str, steps: int) -> TrainParams:
        """The section `train` with which it is trained.

        Args:
            organ: the section of the organ, whose other keys hold for every system.
            profile: small or full.
            steps: of each of its trainings.

        Raises:
            ParamsError: the system is not there, or has no such option.
        """
        shared = organ.model_dump(exclude=set(OWN), exclude_defaults=True)
        # What is compared are networks, not what is done to their label maps.
        own = {"profile": profile, "steps": steps, "validate_every": steps, "inference": {"clean": "none"}}
        try:
            return TrainParams.model_validate(merge(merge(shared, own), self.changes))
        except ValidationError as error:
            wrong = first_problem(error, TrainParams)
            raise ParamsError(f"the system '{self.name}' cannot be: {wrong}") from None


def systems(asked: Sequence[str]) -> list[System]:
    """The systems that were asked for; none: every network and composition there is.

    Args:
        asked: as `unet`, `monai:SegResNet`, or `unet,network.dims=2,loss.focal_gamma=2`.

    Raises:
        ParamsError: one cannot be read.
    """
    chosen = [_read(name) for name in asked or [*names(), *NAMED]]
    found = [system.name for system in chosen]
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise ParamsError(f"the system '{twice[0]}' was asked for twice: leave one out")
    return chosen


def _read(asked: str) -> System:
    name, *changes = asked.split(",")
    section: dict[str, Any] = {"network": {"name": name.strip()}}
    for change in changes:
        place, equals, value = change.partition("=")
        if not equals or not place.strip():
            raise ParamsError(
                f"the change '{change}' of the system '{asked}' is none: write it as loss.focal_gamma=2"
            )
        try:
            wanted: Any = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParamsError(
                f"the value of the change '{change}' of the system '{asked}' is no YAML: "
                "lists have commas, which divide changes here"
            ) from None
        for key in reversed(place.strip().split(".")):
            wanted = {key: wanted}
        if any(_is_set(wanted, shared) for shared in SHARED):
            raise ParamsError(
                f"'{change}' of the system '{asked}' would change its budget: what all systems share is said "
                "by --steps, --seconds or --voxels, and --profile"
            )
        section = merge(section, wanted)
    return System(asked.replace(" ", ""), section)


def _is_set(changes: Any, place: str) -> bool:
    """Whether a change has a key, which may stand within a mapping that was given."""
    for key in place.split("."):
        if not isinstance(changes, dict) or key not in changes:
            return False
        changes = changes[key]
    return True
