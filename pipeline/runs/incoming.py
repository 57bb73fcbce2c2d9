"""What lies where new scans of an organ arrive, and whether all of it has arrived.

    <home>/incoming/<organ>.json   what was seen last, since when it is so, and what was taken in

A series that is being uploaded changes from one look to the next. So a place is read once it has been
the same for `settle_seconds`; how often somebody looks, or whether they were restarted, does not matter.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline.atomic import read_json, sha256_json, write_json
from pipeline.errors import DataError, HounsfieldError, refuse_to_pass_over, refuse_unreadable
from pipeline.params import AirflowParams
from pipeline.sources.bucket import Bucket
from pipeline.sources.keys import parse_url

AGAIN = 3600.0
"""Seconds after which what was refused is tried again."""
ATTEMPTS = 1
"""A look that fails is followed by the next one anyway."""


@dataclass(frozen=True)
class Arrivals:
    """What is known of a place that scans arrive in."""

    source: str = ""
    seen: str = ""
    """Hash of what was there at the last look: names with sizes and versions; '' if nothing was."""
    since: float = 0.0
    """When it was first seen like that, in seconds of the epoch."""
    taken: str = ""
    """Hash of what was last taken in."""
    refused: str = ""
    """Hash of what could not be taken in."""
    refused_at: float = 0.0

    def is_ready(self, settle_seconds: float, now: float) -> bool:
        """Whether there is something new, and it has been the same for so long.

        What was refused is tried again after an hour: it may have been a right that was missing. A
        clock that was set back makes nothing settle sooner, and nothing wait for what it showed before.
        """
        if self.seen in ("", self.taken) or now - self.since < settle_seconds:
            return False
        return self.seen != self.refused or abs(now - self.refused_at) >= AGAIN


def look(home: Path, organ: str, params: AirflowParams, now: float | None = None) -> Arrivals:
    """Look at the place where the scans of `organ` arrive, and remember what is there.

    Raises:
        HounsfieldError: it cannot be looked at.
    """
    assert params.incoming is not None, "somebody asked for it"
    now = time.time() if now is None else now
    before = recall(home, organ)
    if before.source != params.incoming:
        before = Arrivals(source=params.incoming)
    seen = hash_of(listing(params.incoming))
    if seen == before.seen and now >= before.since:
        return before
    after = replace(before, seen=seen, since=now)
    _remember(home, organ, after)
    return after


def recall(home: Path, organ: str) -> Arrivals:
    """What was seen at the last look."""
    record = _record(home, organ)
    return Arrivals(**read_json(record)) if record.is_file() else Arrivals()


def note_taken(home: Path, organ: str, seen: str) -> None:
    """Remember that what was seen has been taken in."""
    _remember(home, organ, replace(recall(home, organ), taken=seen))


def note_refused(home: Path, organ: str, seen: str) -> None:
    """Remember that what was seen cannot be taken in as it is."""
    _remember(home, organ, replace(recall(home, organ), refused=seen, refused_at=time.time()))


def ready(
    home: Path, watched: dict[str, AirflowParams], now: float | None = None
) -> tuple[list[str], dict[str, str]]:
    """The organs with new scans that have settled; and why a place could not be looked at, by organ."""
    now = time.time() if now is None else now
    found, problems = [], {}
    for organ, params in watched.items():
        try:
            arrivals = look(home, organ, params, now)
        except HounsfieldError as error:
            problems[organ] = str(error)
            continue
        if arrivals.is_ready(params.settle_seconds, now):
            found.append(organ)
    return found, problems


def listing(source: str) -> dict[str, str]:
    """What lies in a place: size and version by name."""
    return dict(_objects(source) if source.startswith("s3://") else _files(Path(source)))


def hash_of(listed: dict[str, str]) -> str:
    """As `Arrivals.seen` has it."""
    return sha256_json(listed) if listed else ""


def _objects(source: str) -> Iterator[tuple[str, str]]:
    with closing(Bucket(parse_url(source), threads=1, attempts=ATTEMPTS, wait=0)) as bucket:
        for entry in bucket.objects():
            if entry.size:
                yield entry.name, f"{entry.size} {entry.etag} {entry.version_id}"


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not there", "make it, or correct airflow.incoming in params.yaml")
    try:
        for name in names_below(folder):
            # What is gone since the folder was listed is not there.
            with suppress(FileNotFoundError):
                status = (folder / name).stat()
                yield name, f"{status.st_size} {status.st_mtime_ns}"
    except OSError as error:
        refuse_unreadable(error)


def names_below(folder: Path) -> list[str]:
    """The files below a folder, as they are called from there."""
    return [path.relative_to(folder).as_posix() for path in files_below(folder)]


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones; links are followed, each to a folder elsewhere once."""
    return (path for path in _entries_below(folder) if path.is_file())


def lost_links_below(folder: Path) -> list[Path]:
    """The links below a folder that lead nowhere, as where the data of git-annex were not fetched."""
    return [path for path in _entries_below(folder) if path.is_symlink() and not path.exists()]


def _entries_below(folder: Path) -> Iterator[Path]:
    root, entered = folder.resolve(), set[Path]()

    def is_entered(inside: Path) -> bool:
        if not inside.is_symlink():
            return True
        target = inside.resolve()
        # What lies below the folder has a name of its own; what it lies in leads round in a circle.
        if target in entered or target.is_relative_to(root) or root.is_relative_to(target):
            return False
        entered.add(target)
        return True

    for place, folders, names in os.walk(folder, onerror=refuse_to_pass_over, followlinks=True):
        shown = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in shown if is_entered(Path(place) / name)]
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _remember(home: Path, organ: str, arrivals: Arrivals) -> None:
    write_json(_record(home, organ), asdict(arrivals))


def _record(home: Path, organ: str) -> Path:
    return home / "incoming" / f"{organ}.json"
