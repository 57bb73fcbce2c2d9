"""How a folder of raw scans is laid out: which file is whose image, which its label.

Three layouts are recognised by what is there, without being told:

* ``msd``: ``imagesTr/NAME.nii.gz`` and ``labelsTr/NAME.nii.gz`` (Medical Segmentation Decathlon);
* ``nnunet``: the same with a channel in the image's name, ``imagesTr/NAME_0000.nii.gz``;
* ``folders``: ``images/NAME.nii.gz`` and ``labels/NAME.nii.gz`` (or ``image``, ``masks``, ...).

A ``dataset.json`` beside them gives label names and modality. What the folders hold decides which
cases there are, not the list in ``dataset.json``: a file nobody listed is still a case.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.atomic import read_json
from pipeline.errors import DataError

SUFFIXES = (".nii.gz", ".nii")
FOLDERS = {
    "imagesTr": "labelsTr",
    "images": "labels",
    "image": "label",
    "imgs": "masks",
    "scans": "masks",
}
CHANNEL = re.compile(r"_(\d{4})$")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, relative to the source; None where the file is missing."""

    case: str
    patient: str
    image: Path | None
    label: Path | None


@dataclass(frozen=True)
class Layout:
    """What was found in a source."""

    name: Literal["msd", "nnunet", "folders"]
    cases: list[CaseFiles]
    labels: dict[str, int] | None
    """From dataset.json, the background left out; None without one."""
    modality: Literal["CT", "MR"] | None


def find_layout(source: Path) -> Layout:
    """Look at a folder and pair its images with its labels.

    Raises:
        DataError: it is no folder, no layout is recognised, or there are several channels.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder: give the folder that holds the images and the labels.")
    images, labels = _image_and_label_folders(source)
    label_files = _by_case(source, labels, with_channel=False)
    with_channel = _has_channels(source / images, label_files.keys())
    image_files = _by_case(source, images, with_channel=with_channel)
    if not image_files:
        raise DataError(f"{source / images} holds no {' or '.join(SUFFIXES)} file: nothing to ingest.")
    cases = [
        # Without a table of patients, every case counts as a patient of its own.
        CaseFiles(case, case, image_files.get(case), label_files.get(case))
        for case in sorted(image_files.keys() | label_files.keys())
    ]
    description = _describe(source / "dataset.json")
    name: Literal["msd", "nnunet", "folders"] = "folders"
    if images == "imagesTr":
        name = "nnunet" if with_channel else "msd"
    return Layout(name, cases, _labels(description), _modality(description))


def scan_files(folder: Path) -> list[Path]:
    """All scans in a folder, sorted; hidden files (an archiver's leftovers) are not scans."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.endswith(SUFFIXES) and not path.name.startswith(".")
    )


def case_name(path: Path) -> str:
    """The name of the case an image file holds: without suffix and channel."""
    return CHANNEL.sub("", _stem(path))


def _stem(path: Path) -> str:
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def _image_and_label_folders(source: Path) -> tuple[str, str]:
    for images, labels in FOLDERS.items():
        if (source / images).is_dir() and (source / labels).is_dir():
            return images, labels
    known = ", ".join(f"{images}/ with {labels}/" for images, labels in FOLDERS.items())
    found = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise DataError(f"{source} has no layout that is known ({known}); it holds {found}.")


def _has_channels(images: Path, labelled: Collection[str]) -> bool:
    """Whether the four digits that image names end with are a channel, not the number of the case.

    The names of the labels tell: they carry the case's number, but no channel.
    """
    numbered = [stem for stem in map(_stem, scan_files(images)) if CHANNEL.search(stem)]
    as_channel = sum(CHANNEL.sub("", stem) in labelled for stem in numbered)
    return as_channel > sum(stem in labelled for stem in numbered)


def _by_case(source: Path, folder: str, *, with_channel: bool) -> dict[str, Path]:
    """Paths relative to `source`, by case.

    Raises:
        DataError: two files of the folder belong to one case.
    """
    found: dict[str, Path] = {}
    for path in scan_files(source / folder):
        case = case_name(path) if with_channel else _stem(path)
        if case in found:
            raise DataError(
                f"{source / folder}: {found[case].name} and {path.name} both belong to case '{case}': "
                "keep one of them (several channels are not read yet)."
            )
        found[case] = path.relative_to(source)
    return found


def _describe(path: Path) -> dict[str, Any]:
    """`dataset.json`, or nothing where there is none.

    Raises:
        DataError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        description = read_json(path)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): mend or remove it.") from None
    if not isinstance(description, dict):
        raise DataError(f"{path} holds no JSON object: mend or remove it.")
    return description


def _labels(description: dict[str, Any]) -> dict[str, int] | None:
    """Label names and values; MSD writes ``{"1": "liver"}``, nnU-Net ``{"liver": 1}``."""
    entries = description.get("labels")
    # nnU-Net's regions are lists of values: their names stand for no single label.
    if not isinstance(entries, dict) or any(isinstance(value, list) for value in entries.values()):
        return None
    pairs = [(value, key) if str(key).isdecimal() else (key, value) for key, value in entries.items()]
    return {str(name): int(value) for name, value in pairs if str(value).isdecimal() and int(value) > 0}


def _modality(description: dict[str, Any]) -> Literal["CT", "MR"] | None:
    channels = description.get("modality") or description.get("channel_names") or {}
    names = channels.values() if isinstance(channels, dict) else [channels]
    first = str(next(iter(names), "")).upper()
    if first.startswith("CT"):
        return "CT"
    return "MR" if first.startswith(("MR", "T1", "T2", "FLAIR")) else None
