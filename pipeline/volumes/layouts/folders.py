"""Images in one folder, labels in another: the names pair them.

Three layouts are recognised by what is there, without being told:

* ``msd``: ``imagesTr/NAME.nii.gz`` and ``labelsTr/NAME.nii.gz`` (Medical Segmentation Decathlon);
* ``nnunet``: the same with a channel in the image's name, ``imagesTr/NAME_0000.nii.gz``;
* ``folders``: ``images/NAME.nii.gz`` and ``labels/NAME.nii.gz`` (or ``image``, ``masks``, ...), or a
  folder a case, ``NAME/ct.nii.gz`` and ``NAME/segmentations/ORGAN.nii.gz`` (TotalSegmentator).

Where the labels hold a folder of the case's name, each file in it is the mask of one organ. A
``dataset.json`` beside them gives label names, modality and what is annotated. What the folders hold
decides which cases there are, not the lists in ``dataset.json``: a file nobody listed is still a case.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.volumes.case_files import CaseFiles, Mask, Problem
from pipeline.volumes.layouts.description import (
    NAME,
    CaseFacts,
    declared,
    declared_cases,
    declared_modality,
    describe,
    document,
    organs_of,
    with_facts,
)
from pipeline.volumes.layouts.layout import Layout
from pipeline.volumes.layouts.volume_files import (
    CHANNEL,
    VolumeFile,
    holds_all,
    plain_names,
    scan_files,
    stem,
    volumes_in,
)

FOLDERS = {
    "imagesTr": ("labelsTr",),
    "images": ("labels", "masks"),
    "image": ("label", "mask"),
    "imgs": ("masks", "labels"),
    "scans": ("masks", "labels"),
}
ORGANS = "segmentations"
"""The folder of masks in a folder a case."""


@dataclass
class Parts:
    """The volumes of one case."""

    images: dict[int, list[VolumeFile]] = field(default_factory=lambda: defaultdict(list))
    """By channel; more than one is one too many."""
    masks: dict[str | None, list[VolumeFile]] = field(default_factory=lambda: defaultdict(list))
    """By organ; None: the label map."""


def find(source: Path) -> Layout | None:
    """Pair the images of a folder with their labels; None where no images are laid out so."""
    pair = paired_folders(source)
    found = _paired(source, *pair) if pair else _by_folder(source)
    channels = sorted({channel for parts in found.values() for channel in parts.images})
    if not channels:
        return None
    description = describe(source / NAME)
    facts = declared_cases(description)
    names = plain_names(found)
    cases = [
        with_facts(_case(source, names[raw], parts, channels), facts.get(raw, CaseFacts()))
        for raw, parts in found.items()
    ]
    return Layout(
        _name(source, pair),
        sorted(cases, key=lambda case: case.case),
        declared(description, cases),
        declared_modality(description),
        documents=document(source, NAME),
    )


def paired_folders(source: Path) -> tuple[str, str] | None:
    """The names of the folders of images and labels, if both are there."""
    for images, candidates in FOLDERS.items():
        for labels in candidates:
            if (source / images).is_dir() and (source / labels).is_dir():
                return images, labels
    return None


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def has_channels(images: Sequence[Path], labelled: Collection[str]) -> bool:
    """Whether the four digits that image names end with are a channel, not the number of the case.

    The names of the labels tell: they carry the case's number, but no channel.
    """
    numbered = [name for name in map(stem, images) if CHANNEL.search(name)]
    as_channel = sum(CHANNEL.sub("", name) in labelled for name in numbered)
    return as_channel > sum(name in labelled for name in numbered)


def _name(source: Path, pair: tuple[str, str] | None) -> str:
    if pair is None or pair[0] != "imagesTr":
        return "folders"
    labelled = _masks(source, pair[1]).keys()
    return "nnunet" if has_channels(scan_files(source / pair[0]), labelled) else "msd"


def _paired(source: Path, images: str, labels: str) -> dict[str, Parts]:
    """A folder of images and one of labels."""
    found: dict[str, Parts] = defaultdict(Parts)
    for case, masks in _masks(source, labels).items():
        found[case].masks.update(masks)
    with_channel = has_channels(scan_files(source / images), found.keys())
    for volume in volumes_in(source, Path(images)):
        number = CHANNEL.search(volume.stem) if with_channel else None
        case = volume.stem[: number.start()] if number else volume.stem
        found[case].images[int(number[1]) if number else 0].append(volume)
    return found


def _masks(source: Path, labels: str) -> dict[str, dict[str | None, list[VolumeFile]]]:
    """The label map of each case, or the masks in the folder that bears its name."""
    found: dict[str, dict[str | None, list[VolumeFile]]] = defaultdict(lambda: defaultdict(list))
    for volume in volumes_in(source, Path(labels)):
        found[volume.stem][None].append(volume)
    for folder in folders_in(source / labels):
        for volume in volumes_in(source, folder.relative_to(source)):
            found[folder.name][volume.stem].append(volume)
    return found


def _by_folder(source: Path) -> dict[str, Parts]:
    """A folder a case; nothing, if none of them has a folder of masks."""
    folders = folders_in(source)
    if not any((folder / ORGANS).is_dir() for folder in folders):
        return {}
    found: dict[str, Parts] = {}
    for folder in folders:
        parts = Parts()
        inside = folder.relative_to(source)
        for volume in volumes_in(source, inside):
            parts.images[0].append(volume)
        for volume in volumes_in(source, inside / ORGANS) if (folder / ORGANS).is_dir() else []:
            parts.masks[volume.stem].append(volume)
        if parts.images or parts.masks:
            found[folder.name] = parts
    return found


def _case(source: Path, case: str, parts: Parts, channels: Sequence[int]) -> CaseFiles:
    """The files of one case, with what is wrong about them.

    Args:
        source: that the paths begin at.
        case: its name.
        parts: its volumes.
        channels: that the cases of this source have.
    """
    images = [volumes for _, volumes in sorted(parts.images.items())]
    masks = tuple(Mask(_paths(volumes), label) for label, volumes in parts.masks.items())
    lacking = [f"{channel:04d}" for channel in channels if parts.images and channel not in parts.images]
    if lacking and len(images) == 1 and holds_all(source / images[0][0].paths[0], len(channels)):
        lacking = []
    return CaseFiles(
        case,
        # Without a table of patients, every case counts as a patient of its own.
        case,
        images=tuple(map(_paths, images)),
        masks=masks,
        annotated=organs_of(masks),
        problem=_problem(case, [*images, *parts.masks.values()], lacking),
    )


def _paths(volumes: Sequence[VolumeFile]) -> tuple[Path, ...]:
    return tuple(path for volume in volumes for path in volume.paths)


def _problem(case: str, volumes: Sequence[Sequence[VolumeFile]], lacking: Sequence[str]) -> Problem | None:
    for same in volumes:
        if len(same) > 1:
            both = " and ".join(volume.paths[0].name for volume in same)
            return Problem(f"{case}: {both} stand for the same thing", "keep one of them")
    for volume in (volume for same in volumes for volume in same):
        if volume.problem is not None:
            return Problem(f"{case}: {volume.problem.reason}", volume.problem.remedy)
    if lacking:
        return Problem(
            f"{case}: it lacks the channel {', '.join(lacking)}, which other cases have",
            "add the file, or remove the case",
        )
    return None
