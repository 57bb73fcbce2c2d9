"""What cases in a tree of DICOM files are called."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.volumes.layouts.volume_files import short_name


class Placed(Protocol):
    """A case to be named."""

    @property
    def patient(self) -> str:
        """The pseudonym of whose it is."""

    @property
    def folder(self) -> Path:
        """Where its images are, or else its masks."""


def case_names(cases: Sequence[Placed], source: Path, leaking: Collection[Path]) -> list[str]:
    """A name for each case, unique and in the order of the cases.

    It is that of the uppermost folder in which the cases differ; the pseudonym of the patient where
    there is no such folder, and where its name gives away whose it is. Further cases of one name get
    `_2`, `_3` and so on.

    Args:
        cases: in an order that new cases do not change, as far as that can be.
        source: absolute, as the cases' folders are.
        leaking: folders that are called after a person.
    """
    placed = [case.folder for case in cases if case.folder != source]
    shared = _shared({folder.relative_to(source).parts for folder in placed})
    # Several cases in one folder: its name would tell nothing.
    mixed = len(placed) > 1 and len(set(placed)) == 1
    taken: set[str] = set()
    names = []
    for case in cases:
        telling = None if mixed or case.folder == source else _telling(case.folder, source, shared)
        name = case.patient
        if telling is not None and telling not in leaking:
            name = short_name(re.sub(r"[^A-Za-z0-9_.-]+", "_", telling.name).strip("._-")) or name
        names.append(_unique(name, taken))
    return names


def _shared(folders: Collection[tuple[str, ...]]) -> int:
    """How many parts all folders begin with; 0 for a single one, which differs from none."""
    if len(folders) < 2:
        return 0
    count = 0
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return count


def _telling(folder: Path, source: Path, shared: int) -> Path:
    """The uppermost folder that is not above all cases."""
    parts = folder.relative_to(source).parts
    return source.joinpath(*parts[: min(shared + 1, len(parts))])


def _unique(name: str, taken: set[str]) -> str:
    unique, count = name, 1
    while unique.lower() in taken:
        count += 1
        unique = f"{name}_{count}"
    # Some file systems do not tell capitals from small letters.
    taken.add(unique.lower())
    return unique
