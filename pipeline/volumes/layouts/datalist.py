"""Layout `datalist`: a JSON file that lists images and labels, as MONAI and Auto3DSeg write it.

``{"training": [{"image": "ct/a.nii.gz", "label": "seg/a.nii.gz", "fold": 0}, ...]}``, with several
channels as a list of paths. The list decides which cases there are; what is listed as validation is a
case like any other, since test set and folds are drawn by this project. Where the list is the
`dataset.json` of the Decathlon or of nnU-Net, the folders decide instead (see `folders`).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import DataError
from pipeline.volumes.layouts.description import (
    NAME,
    CaseFacts,
    Json,
    case_facts,
    declared,
    declared_modality,
    describe,
)
from pipeline.volumes.layouts.folders import paired_folders
from pipeline.volumes.layouts.layout import Layout
from pipeline.volumes.layouts.listed import Entry, listed_cases

FIRST = ("datalist.json", NAME)
"""Looked at before all other JSON files."""
SECTIONS = ("training", "validation")


def find(source: Path) -> Layout | None:
    """The cases that a datalist at the top of the source names; None without one.

    Raises:
        DataError: several files could be meant, or `dataset.json` is no JSON object.
    """
    path = _datalist(source)
    if path is None:
        return None
    description = describe(path)
    entries = [
        _entry(f"entry {number} of '{section}'", entry)
        for section in SECTIONS
        for number, entry in enumerate(_list(description, section), start=1)
    ]
    return Layout(
        "datalist",
        listed_cases(source, entries),
        declared(description),
        declared_modality(description),
        left_out=list(_others(description)),
        documents=(path.relative_to(source),),
    )


def _datalist(source: Path) -> Path | None:
    """The file that lists the cases."""
    others = sorted(path for path in source.glob("*.json") if path.name not in FIRST and path.name[0] != ".")
    for name in FIRST:
        if _lists_cases(source, source / name):
            return source / name
    found = [path for path in others if _lists_cases(source, path)]
    if len(found) > 1:
        raise DataError(
            f"{source}: {', '.join(path.name for path in found)} each list cases",
            f"name the one to use {FIRST[0]}",
        )
    return found[0] if found else None


def _lists_cases(source: Path, path: Path) -> bool:
    """Whether a file is a datalist; a broken file of any other name than `dataset.json` is none."""
    try:
        training = _list(describe(path), "training")
    except DataError:
        if path.name in FIRST:
            raise
        return False
    images = [entry for entry in training if isinstance(entry, dict) and "image" in entry]
    return bool(images) and not _agrees_with_folders(source, images)


def _agrees_with_folders(source: Path, entries: Iterable[Json]) -> bool:
    """Whether every entry is of the folders of images and labels that the layout `folders` pairs."""
    pair = paired_folders(source)
    return pair is not None and all(
        tuple(str(PurePosixPath(str(entry.get(key))).parent) for key in ("image", "label")) == pair
        for entry in entries
    )


def _list(description: Json, section: str) -> list[Any]:
    entries = description.get(section)
    return entries if isinstance(entries, list) else []


def _entry(where: str, entry: Any) -> Entry:
    """What one object of the list says."""
    if not isinstance(entry, dict):
        return Entry(where, (), (), facts=CaseFacts(problem=f"{where} is no object"))
    images, labels = _paths(entry.get("image")), _paths(entry.get("label"))
    facts = case_facts(entry)
    if images is None or labels is None or len(labels) > 1:
        facts = replace(
            facts, problem=f"{where} has an image that is no path, or a label that is not one path"
        )
        images, labels = images or (), (labels or ())[:1]
    name = entry.get("id") or entry.get("case") or ""
    return Entry(where, images, tuple((None, path) for path in labels), str(name), facts)


def _paths(value: Any) -> tuple[str, ...] | None:
    """One path or several; None, if it is something else."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(values) if all(isinstance(path, str) and path for path in values) else None


def _others(description: Json) -> Iterable[str]:
    """Cases without labels, to be predicted or to be judged elsewhere."""
    for section in ("test", "testing"):
        entries = _list(description, section)
        if entries:
            yield f"{len(entries)} listed as '{section}'"
