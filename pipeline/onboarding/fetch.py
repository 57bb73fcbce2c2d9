"""Scans from an S3 prefix: a new organ made of one, and an organ brought up to it again.

`data/raw/ORGAN` of such an organ is the prefix, object for object; files of no case come as well, so
that nothing has to be decided anew when objects are added. `data/raw/ORGAN.s3.json` says what was
fetched from where, and is committed beside `data/raw/ORGAN.dvc`.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.atomic import locked
from pipeline.errors import HounsfieldError, MissingError
from pipeline.onboarding.add import RAW, add_organ, check_unknown
from pipeline.onboarding.source import NewOrgan
from pipeline.onboarding.versioning import run_dvc
from pipeline.params import check_name, load_organ
from pipeline.sources import SyncSummary, sync_prefix
from pipeline.sources.manifest import read_manifest
from pipeline.workspace import home


@dataclass(frozen=True)
class Fetched:
    """What a fetch did."""

    organ: str
    sync: SyncSummary
    versioned: bool
    """Whether DVC took a new version in."""

    @property
    def next_command(self) -> str:
        """What to run next; nothing, if the scans have not changed."""
        return f"dvc repro register@{self.organ}" if self.versioned else ""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "organ": self.organ,
            **asdict(self.sync),
            "versioned": self.versioned,
            "next": self.next_command,
        }

    def lines(self) -> list[str]:
        """For a person."""
        sync, raw = self.sync, RAW / self.organ
        lines = [
            f"{self.organ}: {sync.fetched} fetched ({sync.fetched_bytes / 1e6:.1f} MB), "
            f"{sync.removed} removed, {sync.unchanged} as before, from {sync.url}"
        ]
        if sync.skipped:
            lines.append(f"skipped: {sync.skipped} hidden objects and markers of folders")
        if not self.versioned:
            return [*lines, "nothing to do: the scans are those that DVC has"]
        written = f"{raw}.dvc {raw}.s3.json"
        return [
            *lines,
            f"written: {raw}, {raw}.dvc, {raw}.s3.json (git add {written} && git commit)",
            f"next: {self.next_command}",
        ]


def fetch_organ(
    root: Path, organ: str, url: str | None = None, *, allow_removal: bool = False, **transfer: Any
) -> Fetched:
    """Bring the scans of an organ up to their S3 prefix, and have DVC take them in if they differ.

    Args:
        root: the project.
        organ: one of `params.yaml`.
        url: `s3://bucket/prefix`; None: where they came from before.
        allow_removal: let more than half of the files go.
        transfer: for `sync_prefix`.

    Raises:
        ParamsError: `params.yaml` has no such organ.
        MissingError: no prefix is known, or what `sync_prefix` needs is missing.
        DataError: the prefix cannot be fetched; see `sync_prefix`.
    """
    load_organ(root / "params.yaml", organ)
    raw, manifest = RAW / organ, manifest_path(root, organ)
    with locked(root / RAW / f".fetch-{organ}.lock", f"fetching the scans of {organ}") as lock:
        url = url or read_manifest(manifest).url
        if not url:
            raise MissingError(
                f"nothing says which S3 prefix the scans of '{organ}' are from",
                f"name it once: hounsfield fetch {organ} --source s3://BUCKET/PREFIX",
            )
        summary = sync_prefix(url, root / raw, manifest, allow_removal=allow_removal, **transfer)
        # DVC is asked, not the summary: the fetch before may have been killed before DVC took its files.
        pointer = f"{raw}.dvc"
        tracked = (root / pointer).is_file()
        versioned = not tracked or bool(json.loads(run_dvc(root, "status", "--json", pointer)))
        if versioned:
            run_dvc(root, "add", str(raw), lock=lock)
    return Fetched(organ, summary, versioned)


def add_organ_from_prefix(
    root: Path,
    name: str,
    url: str,
    *,
    modality: str | None,
    labels: dict[str, int] | None,
    console: Console,
    present: bool = False,
    keep: bool = True,
) -> NewOrgan:
    """Take an S3 prefix into the project at `root` as a new organ; see `add_organ`.

    The scans are fetched to `sources/NAME` of `HOUNSFIELD_HOME` first. What had arrived when a fetch broke
    off stays there. With `keep` they all do if the organ cannot be added, so that another attempt, with
    `--modality` say, fetches nothing again.
    """
    check_name(name)
    check_unknown(root, name)
    staging = home(root) / "sources" / name
    manifest = staging.with_name(f"{name}.s3.json")
    with locked(staging.with_name(f"{name}.lock"), f"fetching the scans of {name}"):
        # Nothing here is anybody's only copy, and the attempt before may have had another prefix.
        sync_prefix(url, staging, manifest, allow_removal=True, may_be_empty=False)
        try:
            organ = add_organ(
                root,
                name,
                staging,
                modality=modality,
                labels=labels,
                console=console,
                manifest=manifest,
                present=present,
            )
        except HounsfieldError:
            if not keep:
                _forget(staging, manifest)
            raise
        _forget(staging, manifest)
    return organ


def _forget(staging: Path, manifest: Path) -> None:
    shutil.rmtree(staging)
    manifest.unlink()


def manifest_path(root: Path, organ: str) -> Path:
    """Where it is written what was fetched for an organ, and from where."""
    return root / RAW / f"{organ}.s3.json"
