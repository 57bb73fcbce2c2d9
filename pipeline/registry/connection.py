"""Where the MLflow registry is, and how it is reached."""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.atomic import UNWRITABLE, atomic_path, locked, remove_partial
from pipeline.errors import MissingError, ParamsError, Unfinished

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A server that does not answer is reported after seconds, not after minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
"""What MLflow reads when it is imported; the user's own values win."""
ATTEMPTS = 4
"""To reach a database: that it does not answer is told after a second, not after a minute; a file has one."""
LIBRARIES = ("mlflow.", "sqlalchemy.", "requests.", "botocore.", "boto3.")
"""Whose errors come from the registry: MLflow passes on those of where its files are kept."""
MEANT = str.maketrans({"%": "%25", "?": "%3F", "#": "%23"})
"""What ends the path of a URI or is read as a code, and how it is written."""


class Unreachable(MissingError):
    """The registry's server fails; Airflow tries again, because servers are restarted at night, too."""

    exit_code = Unfinished.exit_code


def tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else the database in `home`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _uri_of(_database(home))


def is_present(home: Path) -> bool:
    """Whether there is a registry to ask; costs no import."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or _database(home).exists()


def check_address(uri: str) -> None:
    """Refuse what is no URI.

    Raises:
        ParamsError: saying so without the URI, which may hold a password.
    """
    try:
        urlsplit(uri)
    except ValueError as error:
        raise ParamsError(
            f"MLFLOW_TRACKING_URI is no address ({error})", "write it as http://HOST:PORT, or unset it"
        ) from None


def is_local(uri: str) -> bool:
    """Whether the registry at `uri` is a file, so that its artifacts belong in the home."""
    return uri.startswith(("sqlite:", "sqlite+"))


def connect(home: Path) -> Any:
    """An `MlflowClient`; a database that is not there yet is made."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # It logs a traceback of what it raises; `reached` tells that in a sentence.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = tracking_uri(home)
    check_address(uri)
    if not uri.startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1 if is_local(uri) else ATTEMPTS
    if not is_present(home):
        _make_database(home)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def reached() -> Iterator[None]:
    """Turn what MLflow, its database and its disk raise into an error that says where the registry should be.

    Raises:
        MissingError: one of them failed; Unreachable, if it is a server.
    """
    try:
        yield
    except Exception as error:
        of_disk = isinstance(error, OSError) and error.errno in UNWRITABLE
        here = of_disk or isinstance(error, ModuleNotFoundError)
        # By name, because importing MLflow's exceptions would load it; a database may need a driver.
        if not here and not type(error).__module__.startswith(LIBRARIES):
            raise
        uri, kind = os.environ.get("MLFLOW_TRACKING_URI", ""), MissingError
        place, remedy = (
            "mlflow.db below HOUNSFIELD_HOME",
            "see that it can be read and written and its disk has room, or bring back a copy",
        )
        if uri:
            place, remedy = uri, "see that the server runs and takes files, or unset MLFLOW_TRACKING_URI"
            kind = MissingError if here else Unreachable
        # SQLAlchemy may put a line of advice to programmers before what the database says.
        said = [line for line in str(error).strip().splitlines() if "autoflush" not in line]
        message = said[0] if said else type(error).__name__
        text = f"the model registry ({place}) cannot be used: {message}"
        raise kind(_without_password(text, uri), remedy) from error


def _without_password(text: str, uri: str) -> str:
    """`text` without the user and password that `uri` may carry."""
    account, found, _ = urlsplit(uri).netloc.rpartition("@")
    return text.replace(f"{account}@", "") if found else text


def local_path(uri: str) -> Path | None:
    """The path a URI of artifacts means; None if they are not in a file system."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if parts.scheme else Path(uri)


def _database(home: Path) -> Path:
    return home / "mlflow.db"


def _uri_of(database: Path) -> str:
    """How SQLAlchemy is told of the file, whose path may hold what means something in a URI."""
    path = str(database)
    written = path.translate(MEANT)
    # By the driver's name, or MLflow would take the path as it is written and make its folders.
    return f"sqlite:///{path}" if path == written else f"sqlite+pysqlite:///{written}"


def _make_database(home: Path) -> None:
    """Make the database in `home`, whole or not at all: MLflow cannot go on from half a schema."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database = _database(home)
    with locked(home / "registry.lock", "the database of the model registry"):
        remove_partial(home)
        if database.exists():
            return
        with atomic_path(database) as temporary, _unflushed():
            store = SqlAlchemyStore(_uri_of(temporary), (home / "mlartifacts").as_uri())
            store.engine.dispose()
        if home.stat().st_mode & stat.S_IWGRP:
            # Others of the group run stages, too, and unlike all else it is written where it lies.
            database.chmod(0o664)


@contextmanager
def _unflushed() -> Iterator[None]:
    """Let SQLite leave flushing to its caller.

    MLflow makes its schema in hundreds of steps; flushed one by one they take four times as long, and
    many seconds on a busy disk.
    """
    from sqlalchemy import Engine, event

    def relax(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)
