"""The files of a run in MLflow: sent, read back and compared."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.atomic import sha256_file, sha256_json
from pipeline.errors import DataError, MissingError
from pipeline.registry.connection import local_path


def files_of(folder: Path) -> dict[str, Path]:
    """The files below `folder` by their name in it; hidden ones are leftovers of a killed writer."""
    found = {file.relative_to(folder): file for file in folder.rglob("*") if file.is_file()}
    return {
        name.as_posix(): file
        for name, file in sorted(found.items())
        if not any(part.startswith(".") for part in name.parts)
    }


def content_of(folder: Path) -> str:
    """SHA-256 over names and bytes of the files of `folder`."""
    return sha256_json({name: sha256_file(file) for name, file in files_of(folder).items()})


def registered(champions: Path, content: str, parameter: str, remedy: str) -> Path:
    """Where the files of a registered model lie that a parameter names.

    Args:
        champions: folder of the models that were fetched, each named by its content.
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


def store(client: Any, run: str, place: str, files: Mapping[str, Path]) -> None:
    """Make the artifacts of `run` below `place` hold `files`; what is there already is not sent again.

    Raises:
        DataError: read back, they are not the same.
    """
    wanted = {name: sha256_file(file) for name, file in files.items()}
    stored = _stored(client, run, place)
    missing = [name for name, digest in wanted.items() if stored.get(name) != digest]
    for name in missing:
        client.log_artifact(run, str(files[name]), (Path(place) / name).parent.as_posix())
    stored = _stored(client, run, place) if missing else stored
    for name in missing:
        if stored.get(name) != wanted[name]:
            raise DataError(
                f"{files[name]}: the model registry did not keep what it was sent",
                "look at the disk of its artifacts, then run the stage 'register' again",
            )


def download(client: Any, uri: str, target: Path) -> Path:
    """Fetch the artifacts at `uri` into the folder `target` and return where they are in it."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=client.tracking_uri))


def _stored(client: Any, run: str, place: str) -> dict[str, str]:
    """SHA-256 by name of the artifacts of `run` below `place`."""
    uri = f"{client.get_run(run).info.artifact_uri}/{place}"
    folder = local_path(uri)
    if folder is None and not client.list_artifacts(run, place):
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or download(client, uri, Path(scratch))
        return {name: sha256_file(file) for name, file in files_of(folder).items()}
