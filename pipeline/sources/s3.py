"""A folder kept equal to an S3 prefix: only what is new or changed is fetched, and all of it whole."""

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.progress import DownloadColumn

from pipeline.atomic import remove_partial
from pipeline.errors import DataError
from pipeline.progress import bar
from pipeline.sources.bucket import Bucket, ObjectChanged, etag_as_md5
from pipeline.sources.keys import S3Object, as_files, parse_url
from pipeline.sources.manifest import Manifest, awaited, read_manifest

THREADS = 8
ATTEMPTS = 6
WAIT = 0.5
"""Seconds before a transfer is tried again, at first."""
ROUNDS = 5
"""How often a prefix is listed again because objects changed while they were fetched."""
BATCH = 50
"""Files between two writes of the manifest at least; and there are no more writes than this."""
SHARE_REMOVED = 0.5
"""Of the files; if more than this would go, it is likelier that the prefix is wrong."""


@dataclass(frozen=True)
class SyncSummary:
    """What a sync did, in files."""

    url: str
    fetched: int
    unchanged: int
    removed: int
    skipped: int
    """Objects that are no files: markers of folders, and hidden ones."""
    fetched_bytes: int


def sync_prefix(
    url: str,
    target: Path,
    manifest: Path,
    *,
    threads: int = THREADS,
    attempts: int = ATTEMPTS,
    wait: float = WAIT,
    allow_removal: bool = False,
    may_be_empty: bool = True,
) -> SyncSummary:
    """Make the folder `target` hold the objects of `url`; one process at a time, the caller locks.

    A file that the manifest does not name was put there by somebody else: it stays, unless an object
    has its name. Killed at any moment, it leaves whole files, and the next call goes on.

    Args:
        url: `s3://bucket/prefix`; credentials, region and endpoint are found as boto3 finds them.
        target: made if need be.
        manifest: what was fetched before; it is written anew.
        threads: transfers at a time.
        attempts: how often each is tried.
        wait: seconds before the second attempt; doubled from one to the next.
        allow_removal: let more than half of the files go, or all.
        may_be_empty: whether that goes for all, too.

    Raises:
        DataError: the prefix cannot be a folder, would remove too much, or did not arrive whole. What
            has arrived stays.
        MissingError: credentials, rights or the server are missing.
    """
    prefix = parse_url(url)
    record = read_manifest(manifest)
    record.url = prefix.url
    with closing(Bucket(prefix, threads, attempts, wait)) as bucket:
        sync = _Sync(bucket, target, record, threads)
        for _ in range(ROUNDS):
            files, skipped = as_files(prefix, bucket.objects())
            _check_removal(record, files, allow_removal, may_be_empty)
            changed = sync.run(files)
            if not changed:
                break
        else:
            raise DataError(
                f"{changed} objects of {prefix.url} change while they are fetched",
                "wait until whoever writes them is done, and run again",
            )
    return SyncSummary(
        url=prefix.url,
        fetched=len(sync.fetched),
        unchanged=len(files.keys() - sync.fetched.keys()),
        removed=sync.removed,
        skipped=skipped,
        fetched_bytes=sum(sync.fetched.values()),
    )


def _check_removal(record: Manifest, files: dict[str, S3Object], allowed: bool, may_be_empty: bool) -> None:
    gone = len(record.objects.keys() - files.keys())
    if not files and not (allowed and may_be_empty and gone):
        raise DataError(f"{record.url} holds no scans", "see that bucket and prefix are right")
    if gone > SHARE_REMOVED * len(record.objects) and not allowed:
        raise DataError(
            f"{gone} of the {len(record.objects)} files fetched before are no longer in {record.url}",
            "see that it is the right prefix; if they are meant to go, allow it with --allow-removal",
        )


class _Sync:
    """The state of one sync, over its rounds."""

    def __init__(self, bucket: Bucket, target: Path, record: Manifest, threads: int) -> None:
        self.fetched: dict[str, int] = {}
        """Bytes, by name."""
        self.removed = 0
        self._bucket, self._target, self._record, self._threads = bucket, target, record, threads

    def run(self, files: dict[str, S3Object]) -> int:
        """Bring the folder to `files`; how many were changed in the bucket meanwhile.

        Raises:
            DataError: some did not arrive, or cannot be written.
        """
        try:
            return self._brought(files)
        except OSError as error:
            raise DataError(
                f"{error.filename or self._target} cannot be written ({error.strerror})",
                "see that there is room and who may write there, and run again",
            ) from None

    def _brought(self, files: dict[str, S3Object]) -> int:
        self._target.mkdir(parents=True, exist_ok=True)
        for folder, _, _ in os.walk(self._target):
            remove_partial(Path(folder))
        for name in self._record.objects.keys() - files.keys():
            self._remove(name)
            del self._record.objects[name]
        wanted = [entry for entry in files.values() if not self._stands(entry)]
        self._record.objects |= {entry.name: awaited(entry) for entry in wanted}
        self._record.write()
        self._check_space(wanted)
        return self._bring(wanted)

    def _stands(self, entry: S3Object) -> bool:
        """Whether the file of an object is there already, as far as it can be told without reading it."""
        known = self._record.objects.get(entry.name)
        if known is None or (known.etag, known.size) != (entry.etag, entry.size):
            return False
        # An ETag that is no MD5 may stay the same; a version never does.
        if None not in (known.version_id, entry.version_id) and known.version_id != entry.version_id:
            return False
        return _size(self._target / entry.name) == entry.size

    def _bring(self, wanted: list[S3Object]) -> int:
        """Get every file; how many were changed in the bucket meanwhile."""
        pool = ThreadPoolExecutor(self._threads)
        with bar(DownloadColumn()) as progress:
            task = progress.add_task("Fetching", total=sum(entry.size for entry in wanted))
            jobs = [pool.submit(self._get, entry, lambda n: progress.advance(task, n)) for entry in wanted]
            try:
                return self._collect(jobs)
            except BaseException:
                self._bucket.stop()
                raise
            finally:
                pool.shutdown(cancel_futures=True)
                self._record.write()

    def _collect(self, jobs: "list[Future[tuple[S3Object, bool]]]") -> int:
        """Note what arrives; one that fails stops no other, unless nothing arrives any more."""
        changed, failures, in_a_row = 0, [], 0
        batch = max(BATCH, len(jobs) // BATCH)
        for done, job in enumerate(as_completed(jobs), 1):
            try:
                self._note(*job.result())
                in_a_row = 0
            except ObjectChanged:
                changed += 1
            except DataError as error:
                failures.append(error)
                in_a_row += 1
            if in_a_row > 2 * self._threads:
                break
            if done % batch == 0:
                self._record.write()
        if failures:
            raise DataError(
                f"{len(failures)} of {len(jobs)} objects of {self._record.url} did not arrive, first "
                f"{failures[0].reason}",
                "run again; what has arrived is kept",
            )
        return changed

    def _get(self, wanted: S3Object, arrived: Callable[[int], object]) -> tuple[S3Object, bool]:
        """The object whose file is in place, and whether it had to be transferred for that."""
        path = self._target / wanted.name
        try:
            self._check_inside(path)
            if _holds(path, wanted):
                # It arrived when a sync was killed, or came by another way.
                arrived(wanted.size)
                return wanted, False
            return self._bucket.fetch(wanted, path, arrived), True
        except OSError as error:
            raise DataError(f"{path} cannot be written ({error.strerror or error})") from None

    def _note(self, entry: S3Object, transferred: bool) -> None:
        self._record.objects[entry.name] = entry
        if transferred:
            self.fetched[entry.name] = entry.size

    def _remove(self, name: str) -> None:
        """Remove the file of an object that is gone, and folders that are empty without it."""
        path = self._target / name
        self._check_inside(path)
        if path.is_file() or path.is_symlink():
            path.unlink()
            self.removed += 1
        for folder in path.parents:
            if folder == self._target or not folder.is_dir() or any(folder.iterdir()):
                break
            folder.rmdir()

    def _check_inside(self, path: Path) -> None:
        """A folder of the target may be a link that leads elsewhere."""
        if not path.parent.resolve().is_relative_to(self._target.resolve()):
            raise DataError(f"{path.parent} is a link that leads out of {self._target}", "remove the link")

    def _check_space(self, wanted: list[S3Object]) -> None:
        needed = sum(entry.size - (_size(self._target / entry.name) or 0) for entry in wanted)
        free = shutil.disk_usage(self._target).free
        if needed > free:
            raise DataError(
                f"{self._record.url} takes {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} are free",
                "make room, and run again",
            )


def _size(path: Path) -> int | None:
    """Bytes; None, where there is no file."""
    return path.stat().st_size if path.is_file() else None


def _holds(path: Path, entry: S3Object) -> bool:
    """Whether a file is known to be an object by its content."""
    md5 = etag_as_md5(entry.etag)
    if not md5 or _size(path) != entry.size:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5
