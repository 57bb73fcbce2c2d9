"""Cases that a list names, by paths as somebody wrote them: to nothing, or out of the source."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError
from pipeline.volumes import identity
from pipeline.volumes.case_files import CaseFiles, Mask, Problem
from pipeline.volumes.layouts.description import CaseFacts, organs_of, with_facts
from pipeline.volumes.layouts.volume_files import VolumeFile, case_name, plain_names, stem, volume_file
from pipeline.volumes.readers import is_dicom
from pipeline.volumes.readers.dicom_files import open_dataset, reading
from pipeline.volumes.readers.dicom_person import TAGS, identifying_words, names_person, words_of


@dataclass(frozen=True)
class Entry:
    """What a list says of one case."""

    where: str
    """In the list, for a person: 'row 3'."""
    images: tuple[str, ...]
    """A path a channel, empty where the list gives none."""
    masks: tuple[tuple[str | None, str], ...]
    """Organ (None: a label map) and path."""
    name: str = ""
    """Empty, if the list gives none."""
    facts: CaseFacts = field(default_factory=CaseFacts)

    @property
    def content(self) -> tuple[object, ...]:
        """What makes two entries the same, wherever they stand."""
        return self.images, self.masks, self.facts


def listed_cases(source: Path, entries: Sequence[Entry]) -> list[CaseFiles]:
    """The cases that a list names, sorted; entries of one name are one case, with a problem."""
    together: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        together[entry.name or _inside(source, _first(entry)) or entry.where].append(entry)
    names = _names(source, together)
    cases = [_case(source, names[key], same) for key, same in together.items()]
    return sorted(cases, key=lambda case: case.case)


def listed_file(source: Path, text: str) -> VolumeFile:
    """The volume at a path that a list gives, relative to the source; a folder holds DICOM slices."""
    name = "".join(letter for letter in PurePosixPath(text).name[:80] if letter.isprintable())
    inside = _inside(source, text)
    if inside is None:
        # The path itself may name a person: its end is enough to find it in the list.
        return VolumeFile(
            name, (), Problem(f"{name}: its path leads out of the source", "copy it into the source")
        )
    path = source / inside
    if path.is_dir():
        slices = sorted(
            file for file in path.iterdir() if file.is_file() and file.name[0] != "." and is_dicom(file)
        )
        if slices:
            return VolumeFile(name, tuple(file.relative_to(source) for file in slices))
        return VolumeFile(
            name, (), Problem(f"the folder {name} holds no DICOM file", "list a file, or fill it")
        )
    if not path.is_file():
        return VolumeFile(name, (), Problem(f"{name} is listed but not there", "add it, or mend the list"))
    return volume_file(source, Path(inside))


def _inside(source: Path, text: str) -> str | None:
    """A path relative to the source, without '..'; None, if it leads out of it."""
    if not text or "\0" in text:
        return None
    relative = os.path.relpath(os.path.join(os.path.abspath(source), text), os.path.abspath(source))
    return None if PurePosixPath(relative).parts[:1] == ("..",) else relative


def _first(entry: Entry) -> str:
    return next((text for text in (*entry.images, *(text for _, text in entry.masks)) if text), "")


def _names(source: Path, together: dict[str, list[Entry]]) -> dict[str, str]:
    """A name for each group: as the list gives it, else its first file's, with folders where need be.

    A pseudonym instead, where that would give away whose it is.
    """
    choices = {}
    for key, (entry, *_) in together.items():
        path = Path(key)
        short = case_name(path) if len(entry.images) > 1 else stem(path)
        choices[key] = [entry.name] * 3 if entry.name else [short, str(path.with_name(stem(path))), key]
    wanted = {key: names[0] for key, names in choices.items()}
    for longer in (1, 2):
        count = Counter(wanted.values())
        wanted = {key: name if count[name] == 1 else choices[key][longer] for key, name in wanted.items()}
    for key, (entry, *_) in together.items():
        if not entry.name and names_person(wanted[key], _identifying(source, entry)):
            wanted[key] = identity.pseudonym(key, "case")
    plain = plain_names(wanted.values())
    return {key: plain[name] for key, name in wanted.items()}


def _identifying(source: Path, entry: Entry) -> frozenset[str]:
    """Words for the patient of a case: of the list, and of the headers of its DICOM files."""
    words = words_of(entry.facts.person)
    for text in (*entry.images, *(text for _, text in entry.masks)):
        inside = _inside(source, text)
        path = source / (inside or "")
        files = sorted(path.iterdir()) if inside and path.is_dir() else [path] if inside else []
        first = next((file for file in files if file.is_file() and is_dicom(file)), None)
        if first is not None:
            with suppress(DataError), reading(first.name):
                words |= identifying_words(open_dataset(first, tags=TAGS))
    return words


def _case(source: Path, case: str, entries: Sequence[Entry]) -> CaseFiles:
    entry = entries[0]
    images = [listed_file(source, text) for text in entry.images if text]
    masks = [(organ, listed_file(source, text)) for organ, text in entry.masks if text]
    found = tuple(Mask(volume.paths, organ) for organ, volume in masks if volume.paths)
    files = CaseFiles(
        case,
        case,
        images=tuple(volume.paths for volume in images if volume.paths),
        masks=found,
        annotated=organs_of(found),
        problem=_problem(case, entries, [*images, *(volume for _, volume in masks)]),
    )
    return with_facts(files, entry.facts)


def _problem(case: str, entries: Sequence[Entry], volumes: Sequence[VolumeFile]) -> Problem | None:
    entry = entries[0]
    if len({other.content for other in entries}) > 1:
        places = " and ".join(other.where for other in entries)
        return Problem(f"{case}: {places} are of one name and differ", "keep one, or name them differently")
    if entry.facts.problem is not None:
        return Problem(f"{case}: {entry.facts.problem}", "mend it in the list")
    if not volumes:
        return Problem(f"{case}: {entry.where} names no file", "name its image and its labels, or remove it")
    if any(entry.images) and not all(entry.images):
        lacking = [str(channel) for channel, text in enumerate(entry.images) if not text]
        return Problem(
            f"{case}: {entry.where} gives no path for channel {', '.join(lacking)}",
            "add it, or remove the case",
        )
    for volume in volumes:
        if volume.problem is not None:
            return Problem(f"{case}: {volume.problem.reason}", volume.problem.remedy)
    return None
