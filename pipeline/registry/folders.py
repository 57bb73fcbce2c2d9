"""Where the files of registered models lie on this machine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.atomic import locked
from pipeline.errors import DataError, MissingError
from pipeline.registry.artifacts import content_of, download, where_now
from pipeline.registry.connection import local_path
from pipeline.registry.version import Version

OTHER = "bring them back, or point the alias 'champion' in MLflow at another version"


def champions_in(home: Path) -> Path:
    """The folder of the models that were fetched for this machine, each named by its content."""
    return home / "champions"


def registered(champions: Path, content: str, parameter: str, remedy: str) -> Path:
    """Where the files of a registered model lie that a parameter names.

    Args:
        champions: as `champions_in` says.
        content: hash of the files.
        parameter: that names it.
        remedy: what brings them.

    Raises:
        MissingError: they are not there, or are others.
    """
    folder = champions / content
    if not folder.is_dir() or content_of(folder) != content:
        raise MissingError(f"the model {content} that {parameter} names is not at {folder}", remedy)
    return folder


def fetched(home: Path, content: str, fetch: Callable[[Path], Path]) -> Path:
    """The folder of a model among those that were fetched; what is not there, or damaged, is fetched.

    Args:
        home: of the registry.
        content: hash of the model's files.
        fetch: puts the files into a folder below the one it is given, and returns it.
    """
    kept = champions_in(home) / content
    partial = kept.with_name(f".{content}.partial")
    with locked(home / "champions.lock", f"the models in {kept.parent}"):
        if kept.is_dir() and content_of(kept) == content:
            return kept
        # The second is what a killed process left.
        for leftover in (kept, partial):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        try:
            fetch(partial).rename(kept)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return kept


def folder_of(client: Any, version: Version, home: Path) -> Path:
    """Where the files of a version are, verified; those of a server are fetched once.

    Raises:
        MissingError: they are gone.
        DataError: they are not those that were registered.
    """
    recorded = local_path(version.source)
    if recorded is None:

        def fetch(scratch: Path) -> Path:
            return _verified(version, download(client, version.source, scratch))

        return fetched(home, version.content, fetch)
    # mlartifacts/<organ>/<run>/artifacts/model
    folder = where_now(recorded, home, 5)
    if not folder.is_dir():
        raise MissingError(
            f"{version.organ}: the files of version {version.number} are not at {folder}", OTHER
        )
    return _verified(version, folder)


def _verified(version: Version, folder: Path) -> Path:
    if content_of(folder) != version.content:
        raise DataError(
            f"{version.organ}: the files of version {version.number} at {folder} are not those registered",
            OTHER,
        )
    return folder
