"""One case from its files to its volume, and the row that tells about it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import sha256_code, sha256_json
from pipeline.errors import DataError, HounsfieldError, ResourceError
from pipeline.labels import UNKNOWN
from pipeline.volumes import facts
from pipeline.volumes.annotation import FULL, Annotation
from pipeline.volumes.calibration import Offset, calibrate_ct, calibrate_mr, soft_tissue_peak
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.geometry import (
    Floats,
    Geometry,
    Triple,
    from_canonical,
    resampled_shape,
    to_canonical,
)
from pipeline.volumes.hashes import hash_all
from pipeline.volumes.masks import Masks, check_aligned, read_masks
from pipeline.volumes.names import label_of, printable, quoted
from pipeline.volumes.readers import (
    ITK,
    NIFTI,
    Scan,
    channels_in,
    check_memory,
    read_channels,
    read_geometry,
    starts_negative,
)
from pipeline.volumes.resampling import interpolation, resample_image, resample_labels
from pipeline.volumes.store import SUFFIX, StoredCase, write_case

Row = dict[str, Any]
AS_STORED = Offset()


@dataclass(frozen=True)
class Recipe:
    """What a volume depends on apart from the bytes of its case."""

    modality: str
    labels: dict[str, int]
    """Names and values in the label maps."""
    spacing: Triple
    """Millimetres, (z, y, x)."""
    offset: Offset = AS_STORED
    """Of a CT."""
    mr_scale: Literal["zscore", "percentiles"] = "zscore"
    rois: dict[str, list[str]] = field(default_factory=dict)
    """By label, patterns of the names it has in masks that name what they hold."""
    channels: int = 1
    annotation: Annotation = FULL

    @property
    def classes(self) -> dict[str, int]:
        """Names and class indices 1…n, in the order of the values."""
        return class_indices(self.labels)

    @classmethod
    def of(cls, plan: Mapping[str, Any]) -> "Recipe":
        """The recipe as a plan or a model's configuration holds it."""
        recipe = plan["recipe"]
        z, y, x = recipe["spacing"]
        # Models of before have no annotation, which was full.
        told = recipe.get("annotation")
        annotation = Annotation(**told | {"size_mm": tuple(told["size_mm"])}) if told else FULL
        held = {"spacing": (z, y, x), "offset": Offset(**recipe["offset"]), "annotation": annotation}
        return cls(**recipe | held)


@dataclass(frozen=True)
class Job:
    """One case to be made: where it comes from, where it goes, how."""

    files: CaseFiles
    raw: Path
    volumes: Path
    recipe: Recipe
    hashes: Mapping[Path, str] = field(default_factory=dict)
    """Of files whose hash is known already, by path relative to the source."""
    asks_for_offset: bool = False
    """Whether the survey reads the voxels of a CT to see where soft tissue lies."""

    @property
    def volume(self) -> Path:
        """Where the volume stands when the case is accepted."""
        return self.volumes / f"{self.files.case}{SUFFIX}"


@dataclass(frozen=True)
class Ingested:
    """What became of a case."""

    row: Row
    hashes: dict[Path, str]
    """Of its files, by path relative to the source."""


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


def class_indices(labels: Mapping[str, int]) -> dict[str, int]:
    """Label names with class indices 1…n instead of the values of the label maps."""
    return {name: index for index, name in enumerate(sorted(labels, key=lambda name: labels[name]), start=1)}


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
            raise DataError(
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


def read_truth(files: CaseFiles, raw: Path, geometry: Geometry, recipe: Recipe) -> Masks:
    """The masks of a case, UNKNOWN where its annotation leaves open what a voxel is.

    Raises:
        DataError: as `read_masks`.
    """
    annotation = recipe.annotation
    masks = read_masks(
        files.case, raw, files.masks, geometry, recipe.labels, recipe.rois, annotation.unlabelled
    )
    if annotation.kind in ("full", "image"):
        return masks
    told = annotation.applied(to_canonical(masks.array, geometry), geometry.spacing)
    return replace(masks, array=from_canonical(told, geometry))


def to_classes(array: NDArray[np.uint8], geometry: Geometry, recipe: Recipe) -> NDArray[np.uint8]:
    """Label values (I, J, K), or UNKNOWN, as canonical class indices (Z, Y, X)."""
    labels, indices = recipe.labels, recipe.classes
    if any(labels[name] != index for name, index in indices.items()):
        table = np.zeros(256, np.uint8)
        if recipe.annotation.kind != "full":
            table[UNKNOWN] = UNKNOWN
        for name, index in indices.items():
            table[labels[name]] = index
        array = table[array]
    return np.ascontiguousarray(to_canonical(array, geometry))


def hash_case(job: Job) -> dict[Path, str]:
    """SHA-256 of every file of a case, by path relative to the source.

    Raises:
        DataError: a file is not there or cannot be read.
    """
    paths = {job.raw / path: path for path in job.files.paths}
    known = {job.raw / path: sha256 for path, sha256 in job.hashes.items()}
    try:
        return {paths[path]: sha256 for path, sha256 in hash_all(paths, known).items()}
    except OSError as error:
        name = Path(str(error.filename)).name
        # A case in another format than DICOM is called after its file, whatever that says.
        told = name if name.lower().endswith((*NIFTI, *ITK)) else "one of its files"
        raise DataError(
            f"{job.files.case}: {told} cannot be read ({error.strerror})", "add it, or see who may read it"
        ) from None


def content_key(files: CaseFiles, hashes: Mapping[Path, str]) -> str:
    """Hash of what a case consists of: names, bytes, and what its source says of it.

    Slices are taken in the order of their hashes: what a file is called says nothing about a case.
    """
    parts = [sorted(hashes[path] for path in paths) for paths in files.images]
    masks = [[mask.label, [hashes[path] for path in mask.paths]] for mask in files.masks]
    problem = files.problem and asdict(files.problem)
    return sha256_json([files.case, files.patient, parts, masks, files.annotated, problem])


def case_key(files: CaseFiles, content: str, recipe: Recipe) -> str:
    """Hash of all a volume and its row are made of."""
    return sha256_json([content, asdict(recipe), _code()])


def row_of(volume: Path) -> Row | None:
    """The row a volume was made with; None if there is none that can be read."""
    if not volume.is_file():
        return None
    try:
        row: Row = StoredCase(volume).meta["row"]
    except (DataError, KeyError, ValueError):
        return None
    return row


@cache
def _code() -> str:
    return sha256_code("volumes")


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


def annotated_labels(files: CaseFiles, masks: Masks, recipe: Recipe) -> list[str]:
    """The labels that somebody looked for in a case, in the order of their values.

    Raises:
        DataError: there is none.
    """
    if files.annotated is None:
        return list(masks.annotated)
    labels = recipe.labels
    found = (label_of(files.case, name, labels, recipe.rois) for name in files.annotated)
    meant = {label for label in found if label is not None}
    if not meant:
        raise DataError(
            f"{files.case}: none of the labels ({', '.join(labels)}) was looked for in it, "
            f"but {quoted(files.annotated) or 'nothing'}",
            "name one in its 'annotated', or remove the case",
        )
    return sorted(meant, key=lambda name: labels[name])
