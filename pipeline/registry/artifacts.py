"""The files of a run in MLflow: sent, read back and compared."""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.atomic import sha256_file, sha256_json
from pipeline.errors import DataError
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


def where_now(recorded: Path, home: Path, depth: int) -> Path:
    """A folder of artifacts on this machine: found again when its home was moved as a whole.

    Args:
        recorded: where it was when it was made.
        home: where the home is now.
        depth: folders from the home to it, itself among them.
    """
    moved = home.joinpath(*recorded.parts[-depth:])
    return recorded if recorded.is_dir() or not moved.is_dir() else moved


def uri_of(client: Any, run: str, home: Path) -> str:
    """Where the artifacts of `run` are."""
    uri = str(client.get_run(run).info.artifact_uri)
    recorded = local_path(uri)
    if recorded is None:
        return uri
    # mlartifacts/<organ>/<run>/artifacts
    now = where_now(recorded, home, 4)
    return uri if now == recorded else now.as_uri()


def store(client: Any, run: str, place: str, files: Mapping[str, Path], home: Path) -> None:
    """Make the artifacts of `run` below `place` hold `files`; what is there already is not sent again.

    Raises:
        DataError: read back, they are not the same.
    """
    wanted = {name: sha256_file(file) for name, file in files.items()}
    uri = uri_of(client, run, home)
    stored = _stored(client, run, uri, place)
    missing = [name for name, digest in wanted.items() if stored.get(name) != digest]
    send = _sender(client, run, uri)
    for name in missing:
        send(str(files[name]), (Path(place) / name).parent.as_posix())
    stored = _stored(client, run, uri, place) if missing else stored
    for name in missing:
        if stored.get(name) != wanted[name]:
            raise DataError(
                f"{files[name]}: the model registry did not keep what it was sent",
                "look at the disk of its artifacts, then run the stage 'register' again",
            )


def names_in(client: Any, run: str, place: str, home: Path) -> set[str]:
    """The names of the artifacts of `run` that lie in the folder `place`."""
    folder = local_path(f"{uri_of(client, run, home)}/{place}")
    if folder is None:
        return {Path(entry.path).name for entry in client.list_artifacts(run, place)}
    return {name for name in files_of(folder) if "/" not in name}


def download(client: Any, uri: str, target: Path) -> Path:
    """Fetch the artifacts at `uri` into the folder `target` and return where they are in it."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=client.tracking_uri))


def _sender(client: Any, run: str, uri: str) -> Callable[[str, str], None]:
    """What adds a file to a folder of the artifacts of `run`, which are at `uri`."""
    if uri == client.get_run(run).info.artifact_uri:
        return partial(client.log_artifact, run)
    # MLflow would write to where they were before their home was moved.
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    send: Callable[[str, str], None] = get_artifact_repository(uri).log_artifact
    return send


def _stored(client: Any, run: str, uri: str, place: str) -> dict[str, str]:
    """SHA-256 by name of the artifacts of `run`, which are at `uri`, below `place`."""
    folder = local_path(f"{uri}/{place}")
    if folder is None and not client.list_artifacts(run, place):
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or download(client, f"{uri}/{place}", Path(scratch))
        return {name: sha256_file(file) for name, file in files_of(folder).items()}
