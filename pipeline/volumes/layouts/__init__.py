"""How a folder of raw scans is laid out: which file is whose image, which its label.

A layout is a file here with one function, `find(source)`, which returns what it found, or None where
the source is laid out otherwise. They are asked in turn, from the most telling to the most general;
a `layout` parameter names one, and no other is asked then.
"""

import importlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from pipeline.errors import DataError, refuse_unreadable
from pipeline.params import LayoutName
from pipeline.volumes.layouts.layout import Layout

MODULES = {"msd": "folders", "nnunet": "folders"}
"""Layouts that a module of another name reads."""

__all__ = ["Layout", "find_layout"]


def find_layout(source: Path, name: LayoutName | Literal["auto"] = "auto") -> Layout:
    """Look at a folder and say which files belong to which case.

    Args:
        source: the folder.
        name: of the layout; auto: the first that fits.

    Raises:
        DataError: it is no folder, or one in it cannot be read; or its layout is not known, or not the one
            that is named.
    """
    if not source.is_dir():
        raise DataError(f"{source} is not a folder: give the folder that holds the images and the labels.")
    names = get_args(LayoutName) if name == "auto" else (name,)
    for module in dict.fromkeys(MODULES.get(one, one) for one in names):
        try:
            found: Layout | None = importlib.import_module(f"pipeline.volumes.layouts.{module}").find(source)
        except PermissionError as error:
            refuse_unreadable(error)
        if found is not None and name in ("auto", found.name):
            if not found.cases:
                raise DataError(f"{source}: its {found.name} layout names no case: nothing to ingest.")
            return found
    wanted = "none of the known layouts" if name == "auto" else f"not the layout '{name}'"
    raise DataError(
        f"{source} has {wanted}; it holds {kinds_of(source.iterdir())}",
        f"known are {', '.join(get_args(LayoutName))}: see docs/add-your-own-organ.md",
    )


def kinds_of(paths: Iterable[Path]) -> str:
    """Files and folders for a message, by kind: their names may be those of patients."""
    kinds = Counter(map(_kind, paths))
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8)) or "nothing"


def _kind(path: Path) -> str:
    from pipeline.volumes.layouts.dicom import OTHER
    from pipeline.volumes.layouts.volume_files import SUFFIXES

    if path.is_dir():
        return "folders"
    # What stands behind a point may be a part of a name, too.
    suffix = path.suffix.lower()
    return suffix if suffix in (".dcm", *SUFFIXES, *OTHER) else "of another kind"
