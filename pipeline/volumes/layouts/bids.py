"""Layout `bids`: raw data in BIDS, with segmentations among its derivatives.

* images: ``sub-X/[ses-Y/]anat/sub-X[_ses-Y][_ENTITY-VALUE]_T1w.nii.gz`` (or T2w, FLAIR, ct, ...);
* label maps: ``derivatives/NAME/sub-X/[ses-Y/]anat/..._dseg.nii.gz``, the names of their labels in a
  ``*dseg.tsv`` beside them or at the top of ``derivatives/NAME`` (columns ``index`` and ``name``);
* or the mask of one organ: ``..._label-ORGAN_mask.nii.gz``.

A case is a session. Of several images in a session, the one is taken whose suffix is the ``space`` of
what was drawn, or else whose entities are the same (BIDS 1.9, "Imaging data types").
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.volumes.case_files import CaseFiles, Mask, Problem
from pipeline.volumes.layouts.bids_labels import LabelTables
from pipeline.volumes.layouts.description import document, numbered_organs, organs_of
from pipeline.volumes.layouts.folders import folders_in
from pipeline.volumes.layouts.layout import Declared, Layout
from pipeline.volumes.layouts.volume_files import VolumeFile, plain_names, volumes_in

DERIVATIVES = Path("derivatives")
OF_THE_DRAWING = ("sub", "ses", "space", "desc", "label", "res", "den", "seg", "atlas", "hemi")
"""Entities that tell nothing of the image something was drawn on; `space` is looked at by itself."""
ITS_OWN_SPACE = ("orig", "individual", "scanner")
"""Spaces that are the image's, whichever that is."""


@dataclass(frozen=True)
class _Named:
    """A volume with what its name tells."""

    volume: VolumeFile
    suffix: str
    entities: dict[str, str]

    @property
    def title(self) -> str:
        """For a person; what was drawn has its derivative's name before it."""
        path = self.volume.paths[0]
        return f"{path.parts[1]}/{path.name}" if path.parts[0] == str(DERIVATIVES) else path.name

    @property
    def organ(self) -> str | None:
        """What it is a binary mask of; None for a label map."""
        return (self.entities.get("label") or self.entities.get("desc")) if self.suffix == "mask" else None

    @property
    def of_image(self) -> dict[str, str]:
        """Entities by which an image and what was drawn on it are alike."""
        return {key: value for key, value in self.entities.items() if key not in OF_THE_DRAWING}


def find(source: Path) -> Layout | None:
    """A case a session; None where no folder `sub-*` has images in `anat`."""
    images = _by_session(source, [Path(), Path("rawdata")])
    if not images:
        return None
    drawn = _by_session(source, _derivatives(source), ("dseg", "mask"))
    tables = LabelTables(source)
    names = plain_names(images.keys() | drawn.keys())
    subjects = plain_names(map(_subject, names))
    cases = []
    for session in sorted(names):
        masks = drawn.get(session, [])
        case = _case(names[session], subjects[_subject(session)], images.get(session, []), masks)
        wrong = tables.learn([mask.volume.paths[0] for mask in masks if mask.organ is None])
        if wrong is not None and case.problem is None:
            case = replace(case, problem=Problem(f"{case.case}: {wrong.reason}", wrong.remedy))
        cases.append(case)
    return Layout(
        "bids",
        sorted(cases, key=lambda case: case.case),
        Declared(tables.labels or numbered_organs(cases)),
        _modality(image.suffix for found in images.values() for image in found),
        documents=(*document(source, "dataset_description.json"), *tables.paths),
    )


def _derivatives(source: Path) -> list[Path]:
    """Folders that hold derivatives as they hold subjects, relative to the source."""
    if not (source / DERIVATIVES).is_dir():
        return []
    return [DERIVATIVES, *(folder.relative_to(source) for folder in folders_in(source / DERIVATIVES))]


def _by_session(source: Path, roots: Iterable[Path], suffixes: Sequence[str] = ()) -> dict[str, list[_Named]]:
    """The volumes in `anat`, by `sub-X` or `sub-X_ses-Y`; of some suffixes, if any are given."""
    found: dict[str, list[_Named]] = defaultdict(list)
    for root in roots:
        for folder in _anatomies(source / root):
            session = "_".join(folder.parent.relative_to(source / root).parts)
            for volume in volumes_in(source, folder.relative_to(source)):
                named = _parse(volume)
                if not suffixes or named.suffix in suffixes:
                    found[session].append(named)
    return found


def _anatomies(root: Path) -> list[Path]:
    """The folders `anat`; a glob would pass over what cannot be read."""
    subjects = (
        [folder for folder in folders_in(root) if folder.name.startswith("sub-")] if root.is_dir() else []
    )
    sessions = [
        folder for subject in subjects for folder in folders_in(subject) if folder.name.startswith("ses-")
    ]
    return [folder / "anat" for folder in (*subjects, *sessions) if (folder / "anat").is_dir()]


def _parse(volume: VolumeFile) -> _Named:
    """`sub-01_acq-fine_T1w` has the entities sub and acq, and the suffix T1w."""
    *parts, suffix = volume.stem.split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return _Named(volume, suffix, entities)


def _subject(session: str) -> str:
    """All sessions of a subject stay together."""
    return session.split("_ses-")[0]


def _case(case: str, patient: str, images: Sequence[_Named], masks: Sequence[_Named]) -> CaseFiles:
    """One session."""
    chosen, problem = _image(images, masks)
    problem = problem or _problem([*chosen, *masks], masks)
    found = tuple(Mask(mask.volume.paths, mask.organ) for mask in masks)
    return CaseFiles(
        case,
        patient,
        images=tuple(image.volume.paths for image in chosen[:1]),
        masks=found,
        annotated=organs_of(found),
        problem=Problem(f"{case}: {problem.reason}", problem.remedy) if problem else None,
    )


def _image(images: Sequence[_Named], masks: Sequence[_Named]) -> tuple[list[_Named], Problem | None]:
    """The image that everything was drawn on.

    Without anything drawn that is the first; the case is not complete then, whatever it is.
    """
    if not images or not masks:
        return list(images), None
    for mask in masks:
        fitting = _fitting(images, mask)
        if not fitting:
            return list(images), Problem(
                f"{mask.title} was drawn on none of {_titles(images)}",
                "add that image, or mend the space in its name",
            )
        images = fitting
    if len(images) > 1:
        return list(images), Problem(
            f"{_titles(masks)} may belong to any of {_titles(images)}",
            "name the space, for example space-T1w, or keep one image",
        )
    return list(images), None


def _fitting(images: Sequence[_Named], mask: _Named) -> list[_Named]:
    """Images that a mask may have been drawn on, by its space and its other entities."""
    space = mask.entities.get("space", ITS_OWN_SPACE[0])
    of_space = [image for image in images if image.suffix == space or space in ITS_OWN_SPACE]
    alike = [image for image in of_space if image.of_image == mask.of_image]
    return alike or [image for image in of_space if mask.of_image.items() <= image.of_image.items()]


def _problem(volumes: Sequence[_Named], masks: Sequence[_Named]) -> Problem | None:
    of_organ: dict[str | None, list[_Named]] = defaultdict(list)
    for mask in masks:
        of_organ[mask.organ].append(mask)
    for organ, same in of_organ.items():
        if len(same) > 1:
            what = "label maps" if organ is None else f"masks of {organ}"
            return Problem(f"{_titles(same)} are {len(same)} {what}", "keep one of them")
    return next((named.volume.problem for named in volumes if named.volume.problem), None)


def _titles(volumes: Sequence[_Named]) -> str:
    return " and ".join(volume.title for volume in volumes)


def _modality(suffixes: Iterable[str]) -> Literal["CT", "MR"] | None:
    """CT where all images say so, MR where none does."""
    is_ct = {suffix.lower() == "ct" for suffix in suffixes}
    if len(is_ct) != 1:
        return None
    return "CT" if is_ct.pop() else "MR"
