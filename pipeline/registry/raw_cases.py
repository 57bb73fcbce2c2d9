"""The raw files of a case in a version of the data that may not be checked out."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.registry.dvc_cache import Cache
from pipeline.volumes.layouts import find_layout


@dataclass(frozen=True)
class RawFiles:
    """Of one case."""

    files: int
    missing: int
    """Of them, those that are not in DVC's cache."""


def raw_files(cache: Cache, files: Mapping[str, str], layout: str = "auto") -> dict[str, RawFiles]:
    """The raw files of every case, counted: their paths may name a person.

    The layout is asked as `ingest` asks it, of a folder of links to the objects of the cache. What is
    missing there is an empty file, because most layouts tell by names alone.

    Args:
        cache: that holds the files.
        files: hash by name, relative to the raw folder.
        layout: as `ingest` was told it.

    Raises:
        DataError: the files have no layout that is known.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "raw"
        source.mkdir()
        missing = set()
        for name, md5 in files.items():
            place, stored = source / name, cache.path(md5)
            place.parent.mkdir(parents=True, exist_ok=True)
            if stored is None:
                missing.add(name)
                place.touch()
            else:
                place.symlink_to(stored)
        found = find_layout(source, layout).cases  # type: ignore[arg-type]
        return {
            case.case: RawFiles(
                len(set(case.paths)), sum(path.as_posix() in missing for path in set(case.paths))
            )
            for case in found
        }
