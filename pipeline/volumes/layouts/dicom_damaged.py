"""Damaged files among slices: one of them may be the slice that a series lacks now.

A slice that is missing within a series is seen by the gap it leaves, the first or the last one is not.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.volumes.case_files import Problem
from pipeline.volumes.readers.dicom_files import IMAGE
from pipeline.volumes.readers.dicom_headers import UNREADABLE, Header
from pipeline.volumes.readers.dicom_series import Series

UID = re.compile(rb"[0-2](?:\.\d+)+")
SEARCHED = 1 << 20
"""Bytes of a damaged file that are searched for what it belonged to."""
Key = tuple[str, Path]


def damaged_among(
    series: Sequence[Series], looked: Mapping[Path, Header | None], files: Sequence[Path]
) -> dict[Key, list[Path]]:
    """The damaged files that may be slices of a series, by its key.

    A file that still holds the UID of a series belongs to that one, wherever it lies; any other may be
    a slice of each series in its folder.

    Args:
        series: that were found.
        looked: header of each file, None for those that are no DICOM.
        files: all there are.
    """
    broken = [path for path, header in looked.items() if header is not None and header.kind == UNREADABLE]
    broken += _named_like_slices(looked, files) + _without_orientation(series, looked)
    by_uid: dict[str, list[Series]] = {}
    by_folder: dict[Path, list[Series]] = {}
    for one in series:
        by_uid.setdefault(one.first.series, []).append(one)
        for folder in {path.parent for path in one.paths}:
            by_folder.setdefault(folder, []).append(one)
    found: dict[Key, list[Path]] = {}
    for path in broken:
        known = [one for uid in sorted(_uids(path)) for one in by_uid.get(uid, [])]
        for one in known or by_folder.get(path.parent, []):
            found.setdefault(one.key, []).append(path)
    return found


def problem_of_damaged(damaged: Sequence[Path], files: Collection[Path]) -> Problem:
    """Why a series cannot be used; a damaged file's name might be a person's, so its place is told."""
    first = damaged[0]
    beside = sorted(path for path in files if path.parent == first.parent)
    count = f"{len(damaged)} file{'s' * (len(damaged) > 1)}"
    return Problem(
        f"{count} among its slices cannot be read ({'the first ' * (len(damaged) > 1)}by name number "
        f"{beside.index(first) + 1} of {len(beside)} in its folder): a slice may be missing",
        "fetch the series again, or take out of the source what is no slice of it",
    )


def _named_like_slices(looked: Mapping[Path, Header | None], files: Sequence[Path]) -> list[Path]:
    """Files that are no DICOM, but called like slices beside them but for the digits: a damaged IM0017."""
    slices = {_place(path) for path, header in looked.items() if header is not None and header.kind == IMAGE}
    return [path for path in files if looked.get(path) is None and _place(path) in slices]


def _without_orientation(series: Sequence[Series], looked: Mapping[Path, Header | None]) -> list[Path]:
    """Single images of no series that do not say which way they lie: a page of text does not, either."""
    used = {path for one in series for path in one.paths}
    return [
        path
        for path, header in looked.items()
        if header is not None and header.kind == IMAGE and not header.orientation and path not in used
    ]


def _place(path: Path) -> tuple[Path, str]:
    return path.parent, re.sub(r"\d+", "#", path.name)


def _uids(path: Path) -> set[str]:
    try:
        with open(path, "rb") as file:
            return {found.decode() for found in UID.findall(file.read(SEARCHED))}
    except OSError:
        return set()
