"""One case to be made, as a worker is given it, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.recipe import Recipe
from pipeline.volumes.store import SUFFIX

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One case to be made: where it comes from, where it goes, how."""

    files: CaseFiles
    raw: Path
    volumes: Path
    recipe: Recipe
    hashes: Mapping[Path, str] = field(default_factory=dict)
    """Of files whose hash is known already, by path relative to the source."""
    asks_for_offset: bool = False
    """Whether the survey reads the voxels of a CT to see where soft tissue lies."""

    @property
    def volume(self) -> Path:
        """Where the volume stands when the case is accepted."""
        return self.volumes / f"{self.files.case}{SUFFIX}"


@dataclass(frozen=True)
class Ingested:
    """What became of a case."""

    row: Row
    hashes: dict[Path, str]
    """Of its files, by path relative to the source."""
