"""New scans of an organ, taken into the versioned raw data: fetched, put under DVC, committed, pushed.

The clone it works in stays, so that an attempt that was killed has not fetched in vain.
"""

import filecmp
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from pipeline.atomic import atomic_path, locked, read_json, sha256_json, write_json, write_text
from pipeline.errors import DataError, MissingError, ParamsError, Unfinished
from pipeline.onboarding.add import RAW
from pipeline.onboarding.fetch import fetch_organ, manifest_path
from pipeline.params import AirflowParams, check_name
from pipeline.progress import console
from pipeline.runs.attempts import forget_killed
from pipeline.runs.commands import as_author, dvc, git, unlock_git
from pipeline.runs.incoming import (
    Arrivals,
    hash_of,
    listing,
    look,
    lost_links_below,
    names_below,
    note_refused,
    note_taken,
)
from pipeline.runs.opening import bring_scans
from pipeline.runs.publishing import push_commit
from pipeline.runs.settings import Settings
from pipeline.runs.workspaces import (
    Run,
    find_run,
    make_workspace,
    remotes,
    remove_workspace,
    share_cache,
    workspace_folder,
)
from pipeline.sources.keys import why_no_file

PLACE = ".receive"
"""The workspace of receiving, beside those of the runs."""
BROUGHT = Path(".dvc/tmp/scans.json")
"""Which version of the scans lies in the clone."""
TAKING = Path(".dvc/tmp/taking.json")
"""Names in the folder that files are copied from, until they are taken in."""
PUSHED = Path(".dvc/tmp/pushed.json")
"""Which version of the scans was pushed; removed once the caller was told."""


@dataclass(frozen=True)
class Received:
    """A new version of an organ's scans."""

    organ: str
    scans: str
    """DVC's hash of them."""
    commit: str


def receive(settings: Settings, organ: str, params: AirflowParams) -> Received | None:
    """Take in what has arrived for `organ` and settled; None if there is nothing new.

    Raises:
        DataError, ParamsError: what is there cannot be taken in; for an hour it is not tried again, unless
            it changes.
        Unfinished: the source, the remote or the project cannot be reached now.
    """
    check_name(organ)
    if params.incoming is None:
        raise ParamsError(f"{organ}: nothing says where new scans arrive", "set airflow.incoming for it")
    with locked(settings.home / "incoming" / f".{organ}.lock", f"taking in scans of {organ}"):
        try:
            arrivals = look(settings.home, organ, params)
            if not arrivals.is_ready(params.settle_seconds, time.time()):
                return None
            return _taken(settings, organ, arrivals)
        except MissingError as error:
            # A server, credentials: what is missing may be there the next time.
            raise Unfinished(error.reason, error.remedy) from None


def _taken(settings: Settings, organ: str, arrivals: Arrivals) -> Received | None:
    source = arrivals.source
    settled = listing(source)
    try:
        run = _clone(settings, organ, source)
        is_new = _bring(run.folder, organ, source, settled)
    except (DataError, ParamsError):
        note_refused(settings.home, organ, arrivals.seen)
        raise
    if hash_of(settled) != arrivals.seen or not _is_still(source, settled):
        # Half of a series would be taken for a whole one.
        console.print(f"{organ}: more arrives in {source}, which is waited for", markup=False)
        return None
    received = _published(settings, run) if is_new else _untold(run)
    note_taken(settings.home, organ, arrivals.seen)
    for note in (TAKING, PUSHED):
        (run.folder / note).unlink(missing_ok=True)
    return received


def _is_still(source: str, settled: dict[str, str]) -> bool:
    """Whether what was taken in is what had settled.

    Of a folder only that was copied, so that what comes all the time keeps nothing from being taken in.
    """
    now = listing(source)
    return now == settled if source.startswith("s3://") else now.items() >= settled.items()


def _clone(settings: Settings, organ: str, source: str) -> Run:
    """The clone, as the branch now is, with the scans that the project has and those that came already."""
    found = find_run(workspace_folder(settings.home, organ, PLACE))
    if found is not None and (found.project, found.home) != (settings.project, str(settings.home)):
        # It is of where the project, or its home, was.
        remove_workspace(settings.home, organ, PLACE)
        found = None
    run = found or make_workspace(settings, organ, PLACE)
    forget_killed(run.folder)
    unlock_git(run.folder)
    root, manifest = run.folder, manifest_path(run.folder, organ)
    fetched = manifest.read_text(encoding="utf-8") if manifest.is_file() else ""
    git(root, "fetch", "--quiet", "origin", f"refs/heads/{settings.branch}")
    git(root, "reset", "--quiet", "--hard", "FETCH_HEAD")
    # What the branch does not have is of an attempt that did not come to its end.
    git(root, "clean", "--quiet", "--force", "-x", "--", f"{RAW / organ}.dvc", str(manifest))
    # Not before: where the remote is may have been corrected since the last attempt.
    share_cache(settings, root)
    brought, version = root / BROUGHT, _version(root, organ)
    if not brought.is_file() or read_json(brought) != version or _has_leftovers(root, source):
        _bring_again(root, organ)
        write_json(brought, version)
        (root / TAKING).unlink(missing_ok=True)
    elif fetched:
        # What has come from a bucket since is what was noted when it came.
        write_text(manifest, fetched)
    return replace(run, base=git(root, "rev-parse", "HEAD"))


def _has_leftovers(root: Path, source: str) -> bool:
    """Whether a file was copied that was taken away again before it was taken in."""
    noted = root / TAKING
    there = [] if source.startswith("s3://") else names_below(Path(source))
    return noted.is_file() and not set(there).issuperset(read_json(noted))


def _bring_again(root: Path, organ: str) -> None:
    if _scans(root, organ):
        bring_scans(root, organ, force=True)
    elif (root / RAW / organ).is_dir():
        shutil.rmtree(root / RAW / organ)


def _untold(run: Run) -> Received | None:
    """What an attempt has pushed that was killed before it could say so."""
    scans, pushed = _scans(run.folder, run.organ), run.folder / PUSHED
    told = not pushed.is_file() or read_json(pushed) != scans
    return None if told else Received(run.organ, scans, run.base)


def _scans(root: Path, organ: str) -> str:
    """DVC's hash of the scans, as the commit has it; '' if it has none."""
    pointer = root / RAW / f"{organ}.dvc"
    if not pointer.is_file():
        return ""
    return str(yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"])


def _version(root: Path, organ: str) -> str:
    """A hash of what the commit says of the scans: which they are, and what was fetched from where."""
    manifest = manifest_path(root, organ)
    fetched = manifest.read_text(encoding="utf-8") if manifest.is_file() else ""
    return sha256_json([_scans(root, organ), fetched])


def _bring(root: Path, organ: str, source: str, settled: Iterable[str]) -> bool:
    """Put what is new into the clone's scans and have DVC take it in; whether there was any."""
    before = _scans(root, organ)
    if source.startswith("s3://"):
        fetch_organ(root, organ, source)
    else:
        if lost := lost_links_below(Path(source)):
            raise DataError(
                f"{source}: {len(lost)} links lead nowhere, first {lost[0].name!a}",
                "fetch what they stand for, or remove them; nothing was taken in",
            )
        names = [name for name in settled if (Path(source) / name).is_file()]
        noted = root / TAKING
        write_json(noted, sorted({*names, *(read_json(noted) if noted.is_file() else [])}))
        copy_new(Path(source), root / RAW / organ, names)
        pointer = f"{RAW / organ}.dvc"
        if not (root / pointer).is_file() or json.loads(dvc(root, "status", "--json", pointer)):
            dvc(root, "add", str(RAW / organ))
    return _scans(root, organ) != before


def copy_new(source: Path, target: Path, names: Iterable[str]) -> list[str]:
    """Copy those files of `source` that `target` lacks or has with other bytes; their names.

    Nothing is removed from `target`: people clear out the folder that scans arrive in.

    Raises:
        DataError: a file cannot be read or written, or has a name that is none on other systems.
    """
    copied = []
    for name in names:
        path = source / name
        if fault := why_no_file(name):
            raise DataError(f"{source}: {name!a} {fault}", "rename or remove it; nothing was taken in")
        try:
            if not (target / name).is_file() or not filecmp.cmp(path, target / name, shallow=False):
                with atomic_path(target / name) as partial:
                    shutil.copyfile(path, partial)
                copied.append(name)
        except OSError as error:
            raise DataError(
                f"{path} cannot be taken in ({error.strerror or error})",
                f"see that it can be read, and that there is room and nothing in its place in {target}",
            ) from None
    return copied


def _published(settings: Settings, run: Run) -> Received:
    root, organ = run.folder, run.organ
    for remote in remotes(root)[:1]:
        dvc(root, "push", "--remote", remote, f"{RAW / organ}.dvc")
    kept = [f"{RAW / organ}.dvc", f"{RAW / organ}.s3.json", f"{RAW}/.gitignore"]
    git(root, "add", "--", *(path for path in kept if (root / path).is_file()))
    scans = _scans(root, organ)
    message = f"data: new scans of {organ}\n\nScans: {scans}\n"
    git(root, "commit", "--quiet", "--no-verify", "-F", "-", env=as_author(root), text=message)
    write_json(root / PUSHED, scans)
    commit = push_commit(settings, run, git(root, "rev-parse", "HEAD"), settings.branch, tag=False)
    write_json(root / BROUGHT, _version(root, organ))
    return Received(organ, scans, commit)
