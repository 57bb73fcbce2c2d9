"""One case from its files to its volume, and the row that tells about it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError, HounsfieldError, ResourceError
from pipeline.labels import UNKNOWN
from pipeline.volumes import facts
from pipeline.volumes.calibration import Miscalibrated, calibrate_ct, calibrate_mr, soft_tissue_peak
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.geometry import Floats, Triple, resampled_shape, to_canonical
from pipeline.volumes.job import Ingested, Job, Row
from pipeline.volumes.keys import case_key, content_key, hash_case
from pipeline.volumes.masks import Masks, check_aligned
from pipeline.volumes.names import printable
from pipeline.volumes.readers import (
    Scan,
    channels_in,
    check_memory,
    read_channels,
    read_geometry,
    starts_negative,
)
from pipeline.volumes.recipe import Recipe
from pipeline.volumes.resampling import interpolation, resample_image, resample_labels
from pipeline.volumes.store import StoredCase, write_case
from pipeline.volumes.truth import annotated_labels, read_truth, to_classes


@dataclass(frozen=True)
class Surveyed:
    """What the plan needs to know of a case before any volume is made."""

    shape: tuple[int, int, int]
    """(Z, Y, X) voxels of the original."""
    spacing: Triple
    """Millimetres, (z, y, x)."""
    peak: float | None
    """Where soft tissue lies in a CT without negative values."""
    channels: int = 1


def columns(labels: Iterable[str]) -> list[str]:
    """The columns of the case table, in an order that does not depend on which rows are new."""
    names = ["case", "patient", "status", "reason", "remedy", "layout", "key", "content", "notes"]
    return [*names, "annotated", "channels", "orientation", "scanner", "stored_peak", *facts.columns(labels)]


def survey_case(job: Job) -> Surveyed:
    """Look at a case's header and, where the job asks for the offset of a CT, at its voxels.

    Raises:
        DataError: they cannot be read.
    """
    paths = [job.raw / path for path in job.files.images[0]]
    channels = _count_channels(job.files, job.raw)
    # Most CTs begin with air: the first slices tell that no offset is needed.
    if not job.asks_for_offset or starts_negative(*paths):
        geometry = read_geometry(*paths)
        return Surveyed(geometry.canonical_shape, geometry.spacing, None, channels)
    scan = read_channels(*paths)[0]
    peak = soft_tissue_peak(scan.array)
    return Surveyed(scan.geometry.canonical_shape, scan.geometry.spacing, peak, channels)


def _count_channels(files: CaseFiles, root: Path) -> int:
    """How many channels the files of a case hold, by their headers.

    Raises:
        DataError: one cannot be read.
    """
    return sum(channels_in(*(root / path for path in paths)) for paths in files.images)


def attempt_case(job: Job) -> Ingested:
    """As `ingest_case`, but a case that cannot be accepted has a row that says why.

    Raises:
        ResourceError: this machine cannot do it; another run may.
        MissingError: its volume cannot be written.
    """
    hashes: dict[Path, str] = {}
    try:
        hashes = hash_case(job)
        return ingest_case(replace(job, hashes=hashes))
    except ResourceError:
        raise
    except DataError as error:
        row = quarantined_row(job.files, error)
        if hashes or not job.files.paths:
            row["content"] = content_key(job.files, hashes)
            row["key"] = case_key(job.files, row["content"], job.recipe)
        return Ingested(row, hashes)


def quarantined_row(files: CaseFiles, error: HounsfieldError) -> Row:
    """The row of a case that cannot be used."""
    # A file's name may begin with the case's; one of a letter may be in any word.
    named = re.match(rf"{re.escape(files.case)}(?![A-Za-z0-9])", error.reason)
    return {
        "case": files.case,
        "patient": files.patient,
        "status": "quarantined",
        "reason": printable(error.reason if named else f"{files.case}: {error.reason}"),
        "remedy": printable(error.remedy),
        "key": "",
        "content": "",
        "notes": "",
        "annotated": "",
    }


def ingest_case(job: Job) -> Ingested:
    """Make the volume of one case unless it is there already, and return its row.

    A volume is taken as it is when its key says it was made of the same bytes, by the same recipe
    and the same code.

    Raises:
        DataError: the case cannot be accepted, and why.
        MissingError: its volume cannot be written, which is no fault of the case.
    """
    files = job.files
    _refuse_incomplete(files)
    hashes = hash_case(job)
    content = content_key(files, hashes)
    key = case_key(files, content, job.recipe)
    known = row_of(job.volume)
    if known is not None and known.get("key") == key:
        return Ingested(known, hashes)
    image, scans = read_images(files, job.raw, job.recipe.channels)
    geometry, spacing, target = scans[0].geometry, scans[0].geometry.spacing, job.recipe.spacing
    shape = resampled_shape(geometry.canonical_shape, spacing, target)
    check_memory(f"{files.case}: the planned spacing makes it", shape, len(scans))
    calibrated, notes = calibrate(files.case, image, scans, job.recipe)
    masks = read_truth(files, job.raw, geometry, job.recipe)
    label = to_classes(masks.array, geometry, job.recipe)
    row = _row(job, calibrated, label, scans, masks) | {
        "key": key,
        "content": content,
        "notes": "; ".join(dict.fromkeys([*notes, *masks.notes])),
    }
    kinds = interpolation(spacing)
    channels = [resample_image(one, spacing, target, kinds=kinds) for one in calibrated]
    # One channel need not be copied.
    resampled = channels[0][None] if len(channels) == 1 else np.stack(channels)
    told = job.recipe.annotation.stored(resample_labels(label, spacing, target))
    write_case(job.volume, resampled, told, {"row": row})
    return Ingested(row, hashes)


def read_images(files: CaseFiles, root: Path, channels: int) -> tuple[list[Floats], list[Scan]]:
    """Every channel of a case as a canonical array (Z, Y, X) of stored values, and as it was read.

    Raises:
        DataError: one is unreadable, they lie apart, or their number is not `channels`.
    """
    # By their headers: a series of hundreds is not read to be refused.
    found = _count_channels(files, root)
    if found != channels:
        told = "1 channel" if found == 1 else f"{found} channels"
        raise DataError(
            f"{files.case}: it has {told}, but {channels} {'is' if channels == 1 else 'are'} expected",
            f"{'add the missing image' if found < channels else 'give those that other cases have'}, "
            "or remove the case",
        )
    scans = read_scans(files, root)
    for number, scan in enumerate(scans[1:], start=1):
        check_aligned(files.case, scans[0].geometry, scan.geometry, f"channel {number}")
    # Of two affines that differ by rounding, each could turn an oblique array another way.
    return [to_canonical(scan.array, scans[0].geometry) for scan in scans], scans


def read_scans(files: CaseFiles, root: Path) -> list[Scan]:
    """Every channel of a case as its files hold it.

    Args:
        files: of the case; one of them may hold several channels.
        root: that their paths begin at.

    Raises:
        DataError: one is unreadable.
    """
    return [scan for paths in files.images for scan in read_channels(*(root / path for path in paths))]


def calibrate(
    case: str, images: list[Floats], scans: list[Scan], recipe: Recipe
) -> tuple[list[Floats], list[str]]:
    """Stored values of each channel (Z, Y, X) to HU or z-scores, with notes on what was done.

    Raises:
        DataError: the values cannot be what the modality says.
    """
    calibrated, notes = [], []
    for number, (image, scan) in enumerate(zip(images, scans, strict=True)):
        named = case if len(images) == 1 else f"{case}: channel {number}"
        if scan.origin.modality not in ("", recipe.modality):
            raise Miscalibrated(
                f"{named}: its header says {scan.origin.modality}, but {recipe.modality} is expected",
                "remove the case, or set ingest.modality",
            )
        if recipe.modality == "CT":
            one, said = calibrate_ct(named, image, recipe.offset, scan.origin.padding)
        else:
            one, said = calibrate_mr(named, image, recipe.mr_scale)
        calibrated.append(np.ascontiguousarray(one))
        notes += [*scan.origin.notes, *said]
    return calibrated, notes


def row_of(volume: Path) -> Row | None:
    """The row a volume was made with; None if there is none that can be read."""
    if not volume.is_file():
        return None
    try:
        row: Row = StoredCase(volume).meta["row"]
    except (DataError, KeyError, ValueError):
        return None
    return row


def _refuse_incomplete(files: CaseFiles) -> None:
    if files.problem is not None:
        raise DataError(files.problem.reason, files.problem.remedy)
    if not files.masks:
        raise DataError(f"{files.case}: image without a label", "add its label map, or remove the image")
    if not files.images:
        raise DataError(f"{files.case}: label without an image", "add the image, or remove the label map")


def _row(job: Job, images: list[Floats], label: NDArray[np.uint8], scans: list[Scan], masks: Masks) -> Row:
    """The facts of an accepted case, measured on the canonical image before resampling."""
    recipe, geometry = job.recipe, scans[0].geometry
    annotated = annotated_labels(job.files, masks, recipe)
    # What nobody looked at is no fact of the case.
    seen = label if recipe.annotation.kind == "full" else np.where(label == UNKNOWN, np.uint8(0), label)
    measured = facts.measure(
        images[0], seen, geometry.spacing, recipe.classes, annotated, modality=recipe.modality
    )
    return {
        "case": job.files.case,
        "patient": job.files.patient,
        "status": "accepted",
        "reason": "",
        "remedy": "",
        "annotated": ";".join(annotated) if len(annotated) < len(recipe.labels) else "",
        "channels": len(scans),
        "orientation": geometry.orientation,
        "scanner": scans[0].origin.scanner,
        # Of an MR, too: it may turn out to be a CT when the parameters are mended.
        "stored_peak": soft_tissue_peak(scans[0].array),
    } | measured
