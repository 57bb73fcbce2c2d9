"""Which contours and segmentations were drawn on which series of images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.volumes.case_files import Problem
from pipeline.volumes.readers.dicom_headers import Header
from pipeline.volumes.readers.dicom_series import Series

CONTOURS, SEGMENTATION = "RTSTRUCT", "SEG"


@dataclass(frozen=True)
class Drawn:
    """A file of contours, or a segmentation."""

    path: Path
    header: Header


def drawn_files(headers: Iterable[tuple[Path, Header]]) -> tuple[list[Drawn], int]:
    """The masks among files, each object once, and how many files were copies of one."""
    masks = [Drawn(path, header) for path, header in headers if header.kind in (CONTOURS, SEGMENTATION)]
    once = {
        mask.header.instance or str(mask.path): mask
        for mask in sorted(masks, key=lambda mask: mask.path, reverse=True)
    }
    return sorted(once.values(), key=lambda mask: mask.path), len(masks) - len(once)


def drawn_on(mask: Drawn, series: Sequence[Series], source: Path) -> Series | None:
    """The series a mask was drawn on; None, if it is not there or not to be told from others.

    It is the one that the mask names; else the patient's only one in the same frame of reference;
    else, if nothing is said of either, the patient's only one in the same top-level folder.
    """
    named = [one for one in series if one.first.series and one.first.series in mask.header.refers_to]
    if named:
        return _most_likely(mask, named)
    of_patient = [one for one in series if one.first.patient == mask.header.patient]
    framed = [one for one in of_patient if one.first.frame and one.first.frame in mask.header.refers_frames]
    # What was drawn in another frame of reference lies elsewhere, whoever it belongs to.
    silent = [one for one in of_patient if not (one.first.frame and mask.header.refers_frames)]
    unnamed = [] if mask.header.refers_to else silent
    return _only(framed, mask, source) if framed else _only(unnamed, mask, source, near=True)


def problem_of(masks: Sequence[Drawn]) -> Problem | None:
    """Why the masks of one series cannot all be meant, if so."""
    contours = [mask for mask in masks if mask.header.kind == CONTOURS]
    if len(contours) < 2:
        return None
    told = ", ".join(sorted(_shown(mask) for mask in contours[:3])) + ", ..." * (len(contours) > 3)
    return Problem(
        f"{len(contours)} RTSTRUCT files were drawn on its series ({told})",
        "keep the one that is meant, and move the others out of the source",
    )


def _most_likely(mask: Drawn, series: list[Series]) -> Series:
    """Of parts of one series, the one with the image that is named; else the one with most images."""
    instance = mask.header.refers_instance
    holding = [one for one in series if any(header.instance == instance for header in one.headers)]
    return max(holding or series, key=lambda one: len(one.paths))


def _only(series: list[Series], mask: Drawn, source: Path, *, near: bool = False) -> Series | None:
    """The one series, or the one in the mask's top-level folder; with `near`, only that."""
    if len(series) == 1 and not near:
        return series[0]
    beside = [one for one in series if _top(one.folder, source) == _top(mask.path.parent, source)]
    return beside[0] if len(beside) == 1 else None


def _top(folder: Path, source: Path) -> str:
    parts = folder.relative_to(source).parts
    return parts[0] if parts else ""


def _shown(mask: Drawn) -> str:
    """A file's name, unless it gives away whose it is."""
    return (
        "one named after the patient" if len(mask.path.parts) - 1 in mask.header.leaking else mask.path.name
    )
