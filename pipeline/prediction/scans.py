"""Which scans of a folder are labelled, and which file each label map goes to."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError, MissingError, refuse_unreadable
from pipeline.volumes.case_files import Problem
from pipeline.volumes.layouts.volume_files import (
    SUFFIXES,
    by_channel,
    case_name,
    holds_all,
    one_twice,
    scan_files,
    stem,
    volume_file,
)
from pipeline.volumes.readers import is_dicom

WRITTEN = (".nii.gz", ".nii")
"""What label maps are written as."""
DICOM = ".dcm"
"""What segmentations and contours are written as."""


@dataclass(frozen=True)
class Input:
    """One case to be labelled."""

    name: str
    images: tuple[tuple[Path, ...], ...]
    """A channel each: a file, which may hold more, or the slices of a DICOM series; none: it is missing."""
    output: Path
    problem: Problem | None = None
    """Why it must not be labelled, as far as its folder tells."""


def check_target(source: Path, target: Path, written: tuple[str, ...]) -> None:
    """Refuse, before a model is loaded, what can have no label map there.

    Args:
        source: a scan, or a folder of scans.
        target: where the label map goes, or a folder for them.
        written: what the names of label maps end with.
    """
    # Unlike pathlib, it takes a path that cannot be looked up for no file: writing will say why.
    is_file = os.path.isfile(target)
    if source.is_file():
        if is_file and not target.name.endswith(written):
            raise DataError(
                f"{target} is a file that cannot hold a label map",
                f"give a folder, or a name that ends with {' or '.join(written)}",
            )
        return
    if not source.is_dir():
        raise MissingError(f"{source} is not there", "give a scan or a folder of scans")
    if target.name.endswith(written) or is_file:
        raise DataError(f"{source} is a folder, so {target} must be one too", "give a folder as OUT")
    if target.resolve() == source.resolve():
        raise DataError(f"label maps would overwrite the scans in {source}", "give another folder as OUT")


def inputs_in(source: Path, target: Path, channels: int) -> tuple[list[Input], list[str]]:
    """Each case with the file its label map goes to, and what else there is, counted.

    Raises:
        DataError: there is none.
    """
    if source.is_file():
        output = target if target.name.endswith(WRITTEN) else target / _output_name(source)
        return [Input(source.name, by_channel([source], channels), output)], []
    try:
        scans = scan_files(source)
        left_out = _beside_scans(source) if scans else []
        lost = not any(scan.exists() for scan in scans)
    except PermissionError as error:
        refuse_unreadable(error)
    if lost:
        # Beside DICOM series, a link that leads nowhere says nothing of the format.
        try:
            return _series(source, target)
        except DataError:
            if not scans:
                raise
    if channels == 1:
        return [Input(scan.name, ((scan,),), target / _output_name(scan)) for scan in scans], left_out
    cases: dict[str, list[Path]] = {}
    for scan in scans:
        # Of a file with all channels, four digits at the end of its name are the number of the case.
        name = stem(scan) if holds_all(scan, channels) else case_name(scan)
        cases.setdefault(name, []).append(scan)
    return [
        Input(case, by_channel(files, channels), target / f"{case}.nii.gz", one_twice(files))
        for case, files in cases.items()
    ], left_out


def _beside_scans(source: Path) -> list[str]:
    """What might be meant, too, but is of another format than the scans in a folder, or deeper."""
    from pipeline.volumes.layouts.dicom import OTHER, counted, files_below

    try:
        files = list(files_below(source))
    except DataError as error:
        return [error.reason]
    deeper = sum(len(scan_files(folder)) for folder in {path.parent for path in files} - {source})
    slices = sum(is_dicom(path) for path in files if not path.name.lower().endswith(OTHER))
    phrases = (
        counted(deeper, "scan", "scans", "in folders below"),
        counted(slices, "DICOM file", "DICOM files", "beside scans of other formats"),
    )
    return [phrase for phrase in phrases if phrase]


def _series(source: Path, target: Path) -> tuple[list[Input], list[str]]:
    """The DICOM series in a folder of such, and what else there is."""
    from pipeline.volumes.layouts.dicom import find

    found = find(source, with_masks=False)
    if found is None or not found.cases:
        besides = f", but {', '.join(found.left_out)}" if found else ""
        raise DataError(
            f"{source} holds no {', '.join(SUFFIXES)} file and no DICOM series{besides}",
            "give the folder that holds the scans",
        )
    inputs = [
        Input(
            files.case,
            tuple(tuple(source / path for path in paths) for paths in files.images),
            target / f"{files.case}.nii.gz",
            files.problem,
        )
        for files in found.cases
    ]
    return inputs, found.left_out


def _output_name(scan: Path) -> str:
    return scan.name if scan.name.endswith(WRITTEN) else f"{stem(scan)}.nii.gz"


def dicom_path(source: Path, target: Path, label_map: Path) -> Path:
    """Where the DICOM object goes that is written in place of a label map."""
    if source.is_file() and target.name.endswith(DICOM):
        return target
    return label_map.with_name(f"{stem(label_map).removesuffix(DICOM)}{DICOM}")


def image_files(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """An image with the files its header points to.

    Raises:
        DataError: it points to what cannot be read.
    """
    scan = paths[0]
    if not scan.name.lower().endswith(SUFFIXES):
        return paths
    volume = volume_file(scan.parent, Path(scan.name))
    if volume.problem is not None:
        raise DataError(volume.problem.reason, volume.problem.remedy)
    return tuple(scan.parent / path for path in volume.paths)
