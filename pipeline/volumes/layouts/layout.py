"""What a layout tells of a source."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.volumes.case_files import CaseFiles


@dataclass(frozen=True)
class Declared:
    """What a source says of its labels."""

    labels: dict[str, int] | None = None
    """The background left out; None if it declares none."""
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Values of labels that are judged as one, by name."""
    unlabelled: int | None = None
    """Value of voxels that nobody looked at."""


@dataclass(frozen=True)
class Layout:
    """What was found in a source."""

    name: str
    cases: list[CaseFiles]
    declared: Declared = Declared()
    modality: Literal["CT", "MR"] | None = None
    left_out: list[str] = field(default_factory=list)
    """What is there and belongs to no case, counted, a phrase a kind."""
    documents: tuple[Path, ...] = ()
    """Files that belong to no case but said what does, relative to the source: a copy needs them too."""
