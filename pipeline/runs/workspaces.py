"""The workspace of a run: a clone of the project with the shared DVC cache; opened, found again, closed.

    <home>/workspaces/<organ>/<run>/     the clone; .dvc/tmp/run.json says what it belongs to
    <home>/workspaces/<organ>.open.json  which run of the organ is open
    <home>/cache                         the DVC cache of all runs

Two runs of one organ are never open at once, whoever starts them.
"""

import configparser
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.atomic import locked, read_json, write_json
from pipeline.errors import MissingError, ParamsError
from pipeline.params import check_name
from pipeline.runs.attempts import end_attempts
from pipeline.runs.commands import git
from pipeline.runs.errors import Busy
from pipeline.runs.settings import Settings

RECORD = Path(".dvc/tmp/run.json")
LINKS = "reflink,hardlink,copy"
"""How DVC puts a file of the cache into a workspace: the first that the file system can do."""
PROJECT_REMOTE = "hounsfield-project"
"""The DVC remote of a workspace that is the project's own cache; nobody's own remote is called so."""
PLACES = (
    *("url", "keyfile", "credentialpath", "configpath", "cert_path", "key_path"),
    *("gdrive_user_credentials_file", "gdrive_service_account_json_file_path"),
)
"""Settings of a remote that are paths to DVC, relative to the file that holds them."""
LONGEST = 180
"""Characters of a run's name, which becomes a folder and part of a tag."""


@dataclass(frozen=True)
class Run:
    """A run of an organ: what its workspace says of itself."""

    organ: str
    name: str
    project: str
    home: str
    branch: str
    base: str
    """The commit it started from."""

    @property
    def folder(self) -> Path:
        """The workspace."""
        return workspace_folder(Path(self.home), self.organ, self.name)

    @property
    def tag(self) -> str:
        """The tag of what it publishes."""
        return f"{self.organ}/{self.name}"


def run_name(run_id: str) -> str:
    """A run's name, fit for a folder and a tag, from whatever identifies it.

    Raises:
        ParamsError: nothing of it is.
    """
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9_.-]+", "-", run_id))[:LONGEST]
    # git lets no tag end so, and half of a workspace is called so.
    name = re.sub(r"([.-]|\.lock|\.partial)+$", "", name.lstrip(".-"))
    if not name:
        raise ParamsError(f"'{run_id}' cannot be the name of a run", "use letters and digits")
    return name


def workspace_folder(home: Path, organ: str, name: str) -> Path:
    """Where the workspace of a run is, or will be."""
    return home / "workspaces" / organ / name


def find_run(root: Path) -> Run | None:
    """The run whose workspace `root` is; None if it is a project that somebody works in."""
    record = root / RECORD
    return Run(**read_json(record)) if record.is_file() else None


def open_run_of(settings: Settings, organ: str, run_id: str) -> Run:
    """The run of that name, which must be open.

    Raises:
        MissingError: it has no workspace.
    """
    check_name(organ)
    name = run_name(run_id)
    found = find_run(workspace_folder(settings.home, organ, name))
    if found is None:
        raise MissingError(
            f"{organ}: the run {name} has no workspace", f"open it: hounsfield run open {organ} --id {name}"
        )
    return found


def hold(settings: Settings, organ: str, name: str, by: str = "") -> None:
    """Note that `name` is the open run of `organ`.

    Args:
        settings: of the deployment.
        organ: whose run it is.
        name: of the run.
        by: who opens it, if their runs come one at a time, as those of a DAG do: an open run of theirs is
            then over, however it ended, and gives way.

    Raises:
        Busy: another run is open.
    """
    with _record_of(settings.home, organ) as record:
        if record.is_file():
            held = read_json(record)
            own = by and held["by"] == by
            if held["run"] != name and not own:
                raise Busy(
                    f"{organ}: the run {held['run']} is open",
                    f"wait for its end, or end it with hounsfield run close {organ} --id {held['run']}",
                )
        write_json(record, {"run": name, "by": by})


def release(home: Path, organ: str, name: str) -> None:
    """Note that `name` is no longer the open run of `organ`, if it was."""
    with _record_of(home, organ) as record:
        if record.is_file() and read_json(record)["run"] == name:
            record.unlink()


@contextmanager
def _record_of(home: Path, organ: str) -> Iterator[Path]:
    folder = home / "workspaces"
    with locked(folder / f".{organ}.lock", f"opening a run of {organ}"):
        yield folder / f"{organ}.open.json"


def locked_run(home: Path, organ: str, name: str, doing: str) -> AbstractContextManager[int]:
    """The lock of those that open or publish a run; `doing` says which, to who has to wait."""
    return locked(home / "workspaces" / organ / f".{name}.lock", f"{doing} the run {name}")


def make_workspace(settings: Settings, organ: str, name: str) -> Run:
    """Clone the project for a run, unless that was done before; the clone is whole or not there.

    Raises:
        ParamsError: nobody knows where the project's DVC remote is.
        Refused: the project cannot be cloned.
    """
    folder = workspace_folder(settings.home, organ, name)
    found = find_run(folder)
    if found is not None:
        share_cache(settings, folder)
        return found
    partial = folder.with_name(f"{name}.partial")
    for leftover in (folder, partial):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    git(
        partial.parent,
        "clone",
        "--quiet",
        "--branch",
        settings.branch,
        "--",
        settings.project,
        str(partial),
    )
    share_cache(settings, partial)
    base = git(partial, "rev-parse", "HEAD")
    run = Run(organ, name, settings.project, str(settings.home), settings.branch, base)
    write_json(partial / RECORD, asdict(run))
    partial.rename(folder)
    return run


def share_cache(settings: Settings, clone: Path) -> None:
    """Have a clone use the cache of all runs, and the project's remotes with their current credentials.

    Raises:
        ParamsError: the default remote is a path, and nobody knows from where.
    """
    config = configparser.RawConfigParser()
    config.optionxform = str  # type: ignore[assignment, method-assign]
    local = settings.local
    if local is not None:
        config.read(local / ".dvc" / "config.local")
    for section, key, value in (
        ("cache", "dir", str(settings.home / "cache")),
        ("cache", "type", LINKS),
        *_whole_places(settings, clone),
        *_project_remote(settings),
    ):
        if not config.has_section(section):
            config.add_section(section)
        config.set(section, key, value)
    text = io.StringIO()
    config.write(text)
    target = clone / ".dvc" / "config.local"
    if not target.is_file() or target.read_text(encoding="utf-8") != text.getvalue():
        target.write_text(text.getvalue(), encoding="utf-8")


def _whole_places(settings: Settings, clone: Path) -> list[tuple[str, str, str]]:
    """The relative paths of the project's remotes, made absolute, because a clone lies elsewhere."""
    local = settings.local
    if local is None or not (local / ".dvc").is_dir():
        _check_whole(clone)
        return []
    return [
        (section, key, f'"{os.path.abspath(local / ".dvc" / place)}"')
        for section, key, place in _partial_places(*_config_files(local))
    ]


def _check_whole(clone: Path) -> None:
    default = _dvc_setting(clone, "core", "remote", "")
    for section, key, place in _partial_places(clone / ".dvc" / "config"):
        if section == f"'remote \"{default}\"'":
            raise ParamsError(
                f"the {key} of the DVC remote '{default}' is {place}, which depends on where a clone lies",
                f"give a whole path or an address: dvc remote modify {default} {key} PLACE",
            )


def _partial_places(*files: Path) -> list[tuple[str, str, str]]:
    """Section, key and value of each setting of a remote that is a relative path."""
    config = _dvc_config(*files)
    named = [
        (section, key, config.get(section, key))
        for section in config.sections()
        for key in PLACES
        if section.startswith("'remote ") and config.has_option(section, key)
    ]
    return [entry for entry in named if not re.match(r"\w+://|~|/", entry[2])]


def _project_remote(settings: Settings) -> list[tuple[str, str, str]]:
    """The project's own cache as a remote of a run: scans that a person added there lie in it."""
    local = settings.local
    if local is None or not (local / ".dvc").is_dir():
        return []
    cache = local / ".dvc" / _dvc_setting(local, "cache", "dir", "cache")
    if cache.resolve() == (settings.home / "cache").resolve():
        return []
    return [(f"'remote \"{PROJECT_REMOTE}\"'", "url", str(cache))]


def _dvc_setting(root: Path, section: str, key: str, default: str) -> str:
    """A setting of the project's DVC, read from its files: asking DVC takes a second each time."""
    return _dvc_config(*_config_files(root)).get(section, key, fallback=default)


def _config_files(root: Path) -> tuple[Path, Path]:
    return root / ".dvc" / "config", root / ".dvc" / "config.local"


def _dvc_config(*files: Path) -> configparser.RawConfigParser:
    config = configparser.RawConfigParser()
    config.read(files)
    for section in config.sections():
        for key, value in config.items(section):
            # DVC writes some in quotes (a path with a comma), and so do people.
            config.set(section, key, value.strip("\"'"))
    return config


def remotes(root: Path) -> list[str]:
    """The DVC remotes that a workspace fetches from: the default one, and the project's own cache."""
    default = _dvc_setting(root, "core", "remote", "")
    own = _dvc_setting(root, f"'remote \"{PROJECT_REMOTE}\"'", "url", "")
    return list(dict.fromkeys([default] * bool(default) + [PROJECT_REMOTE] * bool(own)))


def remove_workspace(home: Path, organ: str, name: str) -> None:
    """End what runs in a workspace and remove it, by way of another name: half of it is never found."""
    folder = workspace_folder(home, organ, name)
    end_attempts(folder)
    partial = folder.with_name(f"{name}.partial")
    if folder.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        folder.rename(partial)
    if partial.is_dir():
        shutil.rmtree(partial)


def remove_others(home: Path, organ: str, name: str) -> None:
    """Remove the workspaces of earlier runs of an organ, which are kept when a run fails."""
    for folder in workspace_folder(home, organ, name).parent.glob("*"):
        other = folder.name.removesuffix(".partial")
        if other != name and not other.startswith("."):
            remove_workspace(home, organ, other)
