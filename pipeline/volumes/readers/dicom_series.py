"""Which DICOM files make up a series."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.volumes.readers.dicom_files import IMAGE
from pipeline.volumes.readers.dicom_grid import FEWEST
from pipeline.volumes.readers.dicom_headers import Header
from pipeline.volumes.readers.dicom_planes import SQUARE


@dataclass(frozen=True)
class Series:
    """Images that should make up one volume."""

    paths: tuple[Path, ...]
    """Absolute, sorted."""
    headers: tuple[Header, ...]
    """In the order of the paths."""

    @property
    def first(self) -> Header:
        """Any of the headers: what is asked of a series is the same in all."""
        return self.headers[0]

    @property
    def folder(self) -> Path:
        """The innermost folder that holds all files."""
        return Path(os.path.commonpath([path.parent for path in self.paths]))

    @property
    def key(self) -> tuple[str, Path]:
        """By which series are ordered: not by what else is there."""
        return self.first.series, self.paths[0]


def image_series(headers: Mapping[Path, Header]) -> tuple[list[Series], int]:
    """Group images into series, and count the stray images in them.

    Images of one series UID that differ in orientation or size are series of their own. A few of
    another kind in a larger series, such as a page of dose values, are strays.
    """
    by_uid: dict[tuple[str, str], list[tuple[Path, Header]]] = {}
    for path in sorted(headers):
        header = headers[path]
        if header.kind == IMAGE:
            # Without a UID, a folder is as good as it gets.
            uid = header.series or str(path.parent)
            by_uid.setdefault((uid, header.frame), []).append((path, header))
    series: list[Series] = []
    strays = 0
    for files in by_uid.values():
        groups = _alike(files)
        whole = [group for group in groups if sum(header.frames for _, header in group) >= FEWEST]
        # If none of them can be a volume, the reader shall see them together and say what is wrong.
        for group in whole or [files]:
            paths, found = zip(*group, strict=True)
            series.append(Series(paths, found))
        strays += sum(len(group) for group in groups if group not in whole) if whole else 0
    return sorted(series, key=lambda one: one.key), strays


def _alike(files: Sequence[tuple[Path, Header]]) -> list[list[tuple[Path, Header]]]:
    """Groups of one size and orientation; each enhanced object is one by itself."""
    groups: list[list[tuple[Path, Header]]] = []
    for path, header in files:
        fitting = next((group for group in groups if _fits(header, group[0][1])), None)
        if fitting is None:
            groups.append([(path, header)])
        else:
            fitting.append((path, header))
    return groups


def _fits(one: Header, other: Header) -> bool:
    if max(one.frames, other.frames) > 1 or (one.rows, one.columns) != (other.rows, other.columns):
        return False
    if len(one.orientation) != len(other.orientation):
        return False
    # Numpy would take longer over six numbers.
    return all(abs(a - b) <= SQUARE for a, b in zip(one.orientation, other.orientation, strict=True))
