"""Layout `dicom`: a tree of DICOM files, in any arrangement of folders.

Headers say what belongs together, not folders. A case is a series of CT or MR with the contours
(RTSTRUCT) or segmentations (SEG) that were drawn on it. Where a patient has masks, series without one
are no cases; where a patient has none, each series is a case without a mask.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.errors import MissingError, refuse_to_pass_over
from pipeline.volumes.case_files import CaseFiles, Mask, Problem
from pipeline.volumes.identity import pseudonym
from pipeline.volumes.layouts.dicom_damaged import damaged_among, problem_of_damaged
from pipeline.volumes.layouts.dicom_masks import (
    CONTOURS,
    SEGMENTATION,
    Drawn,
    drawn_files,
    drawn_on,
    problem_of,
)
from pipeline.volumes.layouts.dicom_names import case_names
from pipeline.volumes.layouts.layout import Layout
from pipeline.volumes.readers.dicom_files import IMAGE
from pipeline.volumes.readers.dicom_headers import UNREADABLE, Header, read_headers
from pipeline.volumes.readers.dicom_series import Series, image_series
from pipeline.workspace import home, project_root

OTHER = (
    *(".nii", ".gz", ".json", ".csv", ".tsv", ".txt", ".md", ".html", ".xml", ".yaml", ".yml", ".log"),
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".docx", ".xlsx"),
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".raw", ".mgz", ".npy", ".npz", ".h5", ".hdf5", ".pt", ".pkl"),
    *(".zip", ".tar", ".7z", ".py", ".ipynb", ".parquet", ".dvc", ".bval", ".bvec", ".stl", ".vtk"),
)
"""Suffixes of files that are not opened to see whether they are DICOM."""
USED = (IMAGE, CONTOURS, SEGMENTATION)
"""Kinds of files that make up cases."""


@dataclass(frozen=True)
class _Draft:
    """A case before it has a name; all paths are absolute."""

    order: tuple[str, Path]
    patient: str
    folder: Path
    images: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    problem: Problem | None = None


def find(source: Path, *, with_masks: bool = True) -> Layout | None:
    """Group the DICOM files below a folder into cases; None, if there is not one.

    Args:
        source: the folder.
        with_masks: without them every series is a case, whatever was drawn on it or on others.

    Raises:
        MissingError: there is no secret to name patients by.
        DataError: a folder cannot be read.
    """
    source = source.absolute()
    files = list(files_below(source))
    looked = _headers([path for path in files if not path.name.lower().endswith(OTHER)])
    headers = {path: header for path, header in looked.items() if header is not None}
    if not headers:
        return None
    series, strays = image_series(headers)
    masks, copies = drawn_files(headers.items()) if with_masks else ([], 0)
    drafts, unmasked = _drafts(series, masks, source)
    damaged = damaged_among(series, looked, files)
    drafts = [_with_damaged(draft, damaged.get(draft.order, []), files) for draft in drafts]
    lost = _unreadable(headers, source)
    told = {path for draft in drafts for path in damaged.get(draft.order, [])}
    told |= {path for draft in lost for path in draft.images}
    drafts += lost
    kinds = Counter(header.kind for path, header in headers.items() if path not in told)
    used = USED if with_masks else (IMAGE,)
    left_out = [
        *(counted(kinds[kind], kind, f"{kind}s") for kind in sorted(kinds) if kind not in used),
        counted(strays, "image", "images", "of another size or orientation than its series"),
        counted(copies, "copy", "copies", "of RTSTRUCT or SEG files"),
        counted(unmasked, "series", "series", "without a mask, of patients with masks"),
        counted(len(set(files) - headers.keys() - told), "file", "files", "not DICOM"),
    ]
    modalities = {one.first.modality for one in series}
    return Layout(
        "dicom",
        _cases(drafts, source, _leaking(headers)),
        modality=_modality(modalities),
        left_out=[phrase for phrase in left_out if phrase],
    )


def files_below(source: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; links are followed, each folder is entered once."""
    entered: set[str] = set()
    for folder, folders, names in os.walk(source, onerror=refuse_to_pass_over, followlinks=True):
        real = os.path.realpath(folder)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _headers(paths: Sequence[Path]) -> dict[Path, Header | None]:
    from pipeline.volumes.readers import is_dicom

    # Where there is no DICOM, neither a secret nor an index is made.
    if not any(is_dicom(path) for path in paths):
        return {}
    try:
        index = home(project_root()) / "index" / "dicom.sqlite"
    except MissingError:
        return read_headers(paths)
    return read_headers(paths, index)


def _drafts(series: Sequence[Series], masks: Sequence[Drawn], source: Path) -> tuple[list[_Draft], int]:
    """The cases, and how many series are none because their patient has masks on another."""
    by_series: dict[tuple[str, Path], list[Drawn]] = {}
    lonely: dict[tuple[str, ...], list[Drawn]] = {}
    for mask in masks:
        found = drawn_on(mask, series, source)
        if found is not None:
            by_series.setdefault(found.key, []).append(mask)
        else:
            drawn_in = mask.header.refers_to or mask.header.refers_frames or (mask.header.instance,)
            lonely.setdefault((mask.header.patient, *drawn_in), []).append(mask)
    with_masks = {mask.header.patient for mask in masks}
    with_masks |= {one.first.patient for one in series if one.key in by_series}
    drafts = [
        _of_series(one, by_series.get(one.key, []))
        for one in series
        if one.key in by_series or one.first.patient not in with_masks
    ]
    unmasked = len(series) - len(drafts)
    return drafts + [_of_masks(group) for group in lonely.values()], unmasked


def _of_series(series: Series, masks: Sequence[Drawn]) -> _Draft:
    paths = tuple(mask.path for mask in masks)
    return _Draft(series.key, series.first.patient, series.folder, series.paths, paths, problem_of(masks))


def _with_damaged(draft: _Draft, damaged: Sequence[Path], files: Sequence[Path]) -> _Draft:
    return replace(draft, problem=problem_of_damaged(damaged, files)) if damaged else draft


def _of_masks(masks: Sequence[Drawn]) -> _Draft:
    first = masks[0]
    series = (*first.header.refers_to, "")[0]
    return _Draft(
        (series, first.path),
        first.header.patient,
        first.path.parent,
        masks=tuple(mask.path for mask in masks),
    )


def _unreadable(headers: Mapping[Path, Header], source: Path) -> list[_Draft]:
    """Folders whose DICOM files are all damaged: a case each, or nobody would miss them."""
    folders: dict[Path, list[tuple[Path, Header]]] = {}
    for path, header in headers.items():
        folders.setdefault(path.parent, []).append((path, header))
    drafts = []
    for folder, files in sorted(folders.items()):
        if all(header.kind == UNREADABLE for _, header in files):
            # No header says whether the folder is called after a person: it is taken as if it were.
            name = pseudonym(str(folder.relative_to(source)), "folder")
            problem = Problem(
                f"none of the {len(files)} DICOM files of a folder can be read", "fetch them again"
            )
            drafts.append(
                _Draft(("", folder), name, source, tuple(path for path, _ in files), problem=problem)
            )
    return drafts


def _leaking(headers: Mapping[Path, Header]) -> set[Path]:
    """Folders, and files, that are called after the person in one of the files below."""
    return {Path(*path.parts[: i + 1]) for path, header in headers.items() for i in header.leaking}


def _cases(drafts: Sequence[_Draft], source: Path, leaking: set[Path]) -> list[CaseFiles]:
    ordered = sorted(drafts, key=lambda draft: draft.order)
    cases = [
        CaseFiles(
            name,
            draft.patient,
            images=(_relative(draft.images, source),) if draft.images else (),
            masks=tuple(Mask(_relative((path,), source)) for path in draft.masks),
            problem=draft.problem,
        )
        for name, draft in zip(case_names(ordered, source, leaking), ordered, strict=True)
    ]
    return sorted(cases, key=lambda case: case.case)


def _relative(paths: Sequence[Path], source: Path) -> tuple[Path, ...]:
    return tuple(path.relative_to(source) for path in paths)


def _modality(found: set[str]) -> Literal["CT", "MR"] | None:
    if found == {"CT"}:
        return "CT"
    return "MR" if found == {"MR"} else None


def counted(count: int, one: str, many: str, which: str = "") -> str:
    """For example '3 scout images'; empty, if there are none."""
    return f"{count} {one if count == 1 else many} {which}".strip() if count > 0 else ""
