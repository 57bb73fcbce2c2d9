"""A version of an organ's model, as the registry knows it, and the tags that say so."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTENT = "hounsfield.content"
DECISION = "hounsfield.decision"
APPROVAL = "hounsfield.approval"
WITHDRAWN = "hounsfield.withdrawn"
EXPORT = "hounsfield.export"
REIGN = "hounsfield.reign"
PROMOTED, KEPT, AWAITING = "promoted", "kept", "awaiting_approval"
"""What is decided about a challenger; the last: it won, and a person has to approve."""


@dataclass(frozen=True)
class Version:
    """A version of an organ's model, as the registry knows it."""

    organ: str
    number: int
    content: str
    """SHA-256 over the files of the model folder; empty if another program registered it."""
    run: str
    source: str
    """URI of the model's files."""
    decision: dict[str, Any] | None
    """What was decided about it, as in `registry/<organ>.json`; None while it waits for that.

    Of a long one the verdict alone: `ModelRegistry.decision` has it in full.
    """
    approval: dict[str, Any] | None = None
    """Who approved of it, against which champion, and of which decision's inputs."""
    withdrawn: dict[str, Any] | None = None
    """Why it is no longer champion, and who said so."""
    reign: dict[str, Any] | None = None
    """Of one that the gate made champion: the version it `replaced`, null if none. It outlives decisions."""
    export: dict[str, Any] | None = None
    """Its export: `content` of the files that were stored, or `reason` and code why there are none."""


@dataclass(frozen=True)
class RegisteredModel:
    """A version whose files are on this machine and are those that were registered."""

    organ: str
    version: int
    content: str
    folder: Path


@dataclass(frozen=True)
class Data:
    """The data of a version, as MLflow lists them."""

    name: str
    digest: str
    """At most 36 characters."""
    profile: Mapping[str, int] = field(default_factory=dict)
    """How many cases there are, by split."""


@dataclass(frozen=True)
class Description:
    """What is logged to the run of a version, for people to see, and to search by."""

    params: Mapping[str, str] = field(default_factory=dict)
    dice: Mapping[str, float] = field(default_factory=dict)
    commit: str | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Others than Dice, by their name, then by label."""
    curve: Sequence[tuple[int, Mapping[str, float]]] = ()
    """Step, and what was measured there."""
    data: Data | None = None


def version_of(entry: Any) -> Version:
    """What MLflow's entry of a version says."""
    kept = (DECISION, APPROVAL, WITHDRAWN, REIGN, EXPORT)
    said = {tag: json.loads(entry.tags[tag]) for tag in kept if entry.tags.get(tag)}
    return Version(
        organ=entry.name,
        number=int(entry.version),
        content=entry.tags.get(CONTENT, ""),
        run=entry.run_id,
        source=entry.source,
        decision=said.get(DECISION),
        approval=said.get(APPROVAL),
        withdrawn=said.get(WITHDRAWN),
        reign=said.get(REIGN),
        export=said.get(EXPORT),
    )
