"""From a folder somewhere to an organ of the project.

The scans are copied beside their final place and renamed there, DVC takes them in, and
`params.yaml` is written last: an organ that is in it has its data. The folder that was copied to
stays until the end, so a killed run is recognised and the next one removes what it left.
"""

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn

from pipeline.atomic import locked, write_text
from pipeline.errors import DataError, ParamsError, refuse_unreadable
from pipeline.onboarding.entry import with_organ
from pipeline.onboarding.source import NewOrgan, look
from pipeline.onboarding.versioning import run_dvc
from pipeline.params import check_name, read_params
from pipeline.progress import bar
from pipeline.runs.editing import change_params, check_params
from pipeline.sources.manifest import read_manifest

RAW = Path("data/raw")
STAGING = ".add-organ.partial."
BESIDE = (".dvc", ".s3.json")
"""What stands beside an organ's scans: DVC's pointer, and the prefix they were fetched from, if any."""


def add_organ(
    root: Path,
    name: str,
    source: Path,
    *,
    modality: str | None,
    labels: dict[str, int] | None,
    console: Console,
    manifest: Path | None = None,
    present: bool = False,
) -> NewOrgan:
    """Take the scans in `source` into the project at `root` as a new organ.

    Args:
        root: the project, with `params.yaml` and `.dvc`.
        name: what the organ is called; see `pipeline.params.NAME`.
        source: a folder in a layout of `pipeline.volumes.layouts`; it is only read.
        modality: CT or MR (MRI); None: as dataset.json says, else CT if the images hold air in HU.
        labels: name and value in the label maps; None: as dataset.json says, else every value found.
        console: where progress is shown.
        manifest: of the S3 prefix that `source` was fetched from: then all of it is taken, as a later
            fetch will, and the manifest is kept beside it.
        present: refuse labels that no case has.

    Raises:
        ParamsError: the name, a label or the modality cannot be used.
        DataError: the source, or the place it should go to, cannot be used.
        MissingError: the project is not under DVC.
        In each case the project is as before.
    """
    check_name(name)
    with locked(root / RAW / ".add-organ.lock", "adding organs to this project") as lock:
        for leftover in (root / RAW).glob(f"{STAGING}*"):
            _settle(root, leftover)
        _check_free(root, name)
        _check_source(root, source)
        organ = look(name, source, modality, labels, console, present)
        if manifest is not None:
            organ = replace(organ, files=[Path(key) for key in read_manifest(manifest).objects], left_out=[])
        # What the file has no place for is told before anything is copied.
        check_params(_with_organ(organ, (root / "params.yaml").read_bytes().decode("utf-8")), name)
        _check_space(root, source, organ.files)
        staging = root / RAW / f"{STAGING}{name}"
        try:
            _copy(source, organ.files, _new_staging(staging))
            (staging / "scans").rename(root / RAW / name)
            with console.status(f"DVC takes {RAW / name} in"):
                run_dvc(root, "add", str(RAW / name), lock=lock)
            if manifest is not None:
                write_text(root / RAW / f"{name}.s3.json", manifest.read_text(encoding="utf-8"))
            change_params(root, name, partial(_with_organ, organ))
        finally:
            _settle(root, staging)
    return organ


def _new_staging(staging: Path) -> Path:
    """Make the folder to copy to, inside `staging`; without it, `staging` says that it was renamed."""
    fresh = staging.parent / ".add-organ.new"
    (fresh / "scans").mkdir(parents=True, exist_ok=True)
    fresh.rename(staging)
    return staging / "scans"


def _settle(root: Path, staging: Path) -> None:
    """Keep the scans of an organ that `params.yaml` has, remove those of any other; then `staging`."""
    if not staging.is_dir():
        return
    name = staging.name.removeprefix(STAGING)
    renamed = not (staging / "scans").exists()
    if renamed and name not in read_params(root / "params.yaml")["organs"]:
        for suffix in BESIDE:
            (root / RAW / f"{name}{suffix}").unlink(missing_ok=True)
        if (root / RAW / name).is_dir():
            shutil.rmtree(root / RAW / name)
    shutil.rmtree(staging)


def check_unknown(root: Path, name: str) -> None:
    """Raise ParamsError if `params.yaml` has an organ of that name."""
    if name in read_params(root / "params.yaml")["organs"]:
        raise ParamsError(
            f"params.yaml already has the organ '{name}'",
            f"choose another name, or put the new cases into {RAW / name} and run dvc add {RAW / name}",
        )


def _check_free(root: Path, name: str) -> None:
    check_unknown(root, name)
    for path in (RAW / name, *(RAW / f"{name}{suffix}" for suffix in BESIDE)):
        if os.path.lexists(root / path):
            raise DataError(
                f"{path} is there, but params.yaml has no organ '{name}'",
                f"choose another name, or move {path} out of {RAW} and, if it holds the scans, give it "
                "as --source",
            )


def _check_source(root: Path, source: Path) -> None:
    if not source.exists():
        raise DataError(f"{source} is not there", "give the folder that holds the scans")
    if not source.is_dir():
        raise DataError(f"{source} is a file", "unpack it, and give the folder that holds the scans")
    try:
        empty = not any(source.iterdir())
    except PermissionError as error:
        refuse_unreadable(error)
    if empty:
        raise DataError(f"{source} is empty", "give the folder that holds the scans")
    real, raw = source.resolve(), (root / RAW).resolve()
    if real.is_relative_to(raw) or raw.is_relative_to(real):
        raise DataError(f"{source} and {RAW} of this project lie in one another", "give a folder elsewhere")


def _with_organ(organ: NewOrgan, text: str) -> str:
    """The text of `params.yaml` with the organ in it."""
    return with_organ(text, organ.name, organ.sections)


def _check_space(root: Path, source: Path, files: list[Path]) -> None:
    """The scans are kept twice: where they are worked on, and in DVC's cache, which may be elsewhere."""
    size = sum((source / path).stat().st_size for path in files)
    cache = Path(run_dvc(root, "cache", "dir").strip())
    while not cache.exists():
        cache = cache.parent
    needed: dict[int, int] = {}
    for folder in (root / RAW, cache):
        device = folder.stat().st_dev
        needed[device] = needed.get(device, 0) + size
        free = shutil.disk_usage(folder).free
        if needed[device] > free:
            raise DataError(
                f"the scans and DVC's copy take {needed[device] / 1e9:.1f} GB, and {free / 1e9:.1f} are free",
                "make room, or move DVC's cache with dvc cache dir --local PATH",
            )


def _copy(source: Path, files: list[Path], target: Path) -> None:
    """Copy the contents of files; a link is followed to the file it leads to."""
    with bar(DownloadColumn()) as progress:
        task = progress.add_task("Copying", total=sum((source / path).stat().st_size for path in files))
        for path in files:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source / path, target / path)
            except OSError as error:
                raise DataError(
                    f"{path} of {source} cannot be copied ({error.strerror or error}), so nothing was added",
                    "see that it can be read and that there is room, and run again",
                ) from None
            progress.advance(task, (target / path).stat().st_size)
