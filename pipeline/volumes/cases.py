"""One case from its files to its volume, and the row that tells about it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic import sha256_code, sha256_file, sha256_json
from pipeline.errors import DataError
from pipeline.volumes.calibration import calibrate_ct, calibrate_mr
from pipeline.volumes.geometry import (
    Floats,
    Geometry,
    Triple,
    resample_image,
    resample_labels,
    resampled_shape,
    to_canonical,
)
from pipeline.volumes.layouts import CaseFiles
from pipeline.volumes.readers import Scan, check_memory, read_scan
from pipeline.volumes.store import SUFFIX, StoredCase, write_case

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What a volume depends on apart from the bytes of its case."""

    modality: str
    labels: dict[str, int]
    """Names and values in the label maps."""
    spacing: Triple
    """Millimetres, (z, y, x)."""
    hu_offset: float = 0.0

    @property
    def classes(self) -> dict[str, int]:
        """Names and class indices 1…n, in the order of the values."""
        return class_indices(self.labels)


@dataclass(frozen=True)
class Job:
    """One case to be made: where it comes from, where it goes, how."""

    files: CaseFiles
    raw: Path
    volumes: Path
    recipe: Recipe

    @property
    def volume(self) -> Path:
        """Where the volume stands when the case is accepted."""
        return self.volumes / f"{self.files.case}{SUFFIX}"


def class_indices(labels: dict[str, int]) -> dict[str, int]:
    """Label names with class indices 1…n instead of the values of the label maps."""
    return {name: index for index, name in enumerate(sorted(labels, key=lambda name: labels[name]), start=1)}


def columns(labels: Iterable[str]) -> list[str]:
    """The columns of the case table, in an order that does not depend on which rows are new."""
    facts = ["case", "patient", "status", "reason", "remedy", "image", "label", "key", "notes"]
    facts += [f"{name}_{axis}" for name in ("shape", "spacing") for axis in "zyx"]
    facts += ["orientation", *(f"intensity_{name}" for name in ("min", "p01", "p50", "p99", "max"))]
    facts += ["fg_mean", "fg_square", "fg_low", "fg_high"]
    return facts + [f"{name}_{label}" for label in labels for name in ("voxels", "ml")]


def ingest_case(job: Job) -> Row:
    """Make the volume of one case unless it is there already, and return its row.

    A volume is taken as it is when its key says it was made of the same bytes, by the same recipe
    and the same code.

    Raises:
        DataError: the case cannot be accepted, and why.
        MissingError: its volume cannot be written, which is no fault of the case.
    """
    files = job.files
    if files.label is None:
        raise DataError(f"{files.case}: image without a label", "add its label map, or remove the image")
    if files.image is None:
        raise DataError(f"{files.case}: label without an image", "add the image, or remove the label map")
    key = case_key(job)
    known = _row_of(job.volume, key)
    if known is not None:
        return known
    image_scan = read_scan(job.raw / files.image)
    label_scan = read_scan(job.raw / files.label)
    _check_aligned(files.case, image_scan.geometry, label_scan.geometry)
    geometry = image_scan.geometry
    spacing, target = geometry.spacing, job.recipe.spacing
    shape = resampled_shape(geometry.canonical_shape, spacing, target)
    check_memory(f"{files.case}: the planned spacing makes it", shape)
    image, notes = calibrate(files.case, to_canonical(image_scan.array, geometry), job.recipe)
    # Of two affines that differ by rounding, each could turn an oblique array another way.
    label = label_classes(files.case, Scan(label_scan.array, geometry), job.recipe.labels)
    row = _row(files, key, geometry, image, label, job.recipe) | {"notes": notes}
    write_case(
        job.volume,
        resample_image(image, spacing, target),
        resample_labels(label, spacing, target),
        {"row": row},
    )
    return row


def case_key(job: Job) -> str:
    """Hash of all a volume and its row are made of: names, bytes, recipe, code."""
    files = [path for path in (job.files.image, job.files.label) if path is not None]
    content = {str(path): sha256_file(job.raw / path) for path in files}
    return sha256_json([job.files.case, job.files.patient, content, asdict(job.recipe), _code()])


def calibrate(case: str, image: Floats, recipe: Recipe) -> tuple[Floats, str]:
    """Stored values to HU or z-scores, with a note on what was done."""
    if recipe.modality == "CT":
        return calibrate_ct(case, image, recipe.hu_offset)
    return calibrate_mr(case, image)


def label_classes(case: str, scan: Scan, labels: dict[str, int]) -> NDArray[np.uint8]:
    """A label map as canonical class indices (Z, Y, X).

    Raises:
        DataError: it holds a value that is no declared label.
    """
    values, positions = np.unique(scan.array, return_inverse=True)
    indices = class_indices(labels)
    table = {0: 0} | {value: indices[name] for name, value in labels.items()}
    stray = [float(value) for value in values if float(value) not in table]
    if stray:
        known = ", ".join(f"{value} {name}" for name, value in labels.items())
        raise DataError(
            f"{case}: the label map holds {', '.join(f'{value:g}' for value in stray[:5])}, "
            f"but declared are 0 and {known}",
            "mend the label map, or declare the value in ingest.labels",
        )
    classes = np.array([table[int(value)] for value in values], np.uint8)[positions].reshape(scan.array.shape)
    return to_canonical(classes, scan.geometry)


@cache
def _code() -> str:
    return sha256_code("volumes")


def _row_of(volume: Path, key: str) -> Row | None:
    """The row of a volume that has this key, None if it must be made."""
    if not volume.is_file():
        return None
    try:
        row: Row = StoredCase(volume).meta["row"]
    except (DataError, KeyError, ValueError):
        return None
    return row if row.get("key") == key else None


def _check_aligned(case: str, image: Geometry, label: Geometry) -> None:
    """Refuse a label map that lies elsewhere than its image."""
    if image.shape != label.shape:
        raise DataError(
            f"{case}: the image has {image.shape} voxels and the label map {label.shape}",
            "resample the label map onto the image",
        )
    corners = np.array(
        [[i, j, k, 1] for i in (0, image.shape[0]) for j in (0, image.shape[1]) for k in (0, image.shape[2])]
    )
    apart = float(np.abs((image.affine - label.affine) @ corners.T).max())
    if apart > 0.5 * min(image.spacing):
        raise DataError(
            f"{case}: image and label map lie {apart:.1f} mm apart by their headers",
            "resample the label map onto the image, or mend the header that is wrong",
        )


def _row(
    files: CaseFiles, key: str, geometry: Geometry, image: Floats, label: NDArray[np.uint8], recipe: Recipe
) -> Row:
    """The facts of an accepted case, measured on the canonical image before resampling."""
    low, p01, p50, p99, high = (float(value) for value in np.percentile(image, (0, 1, 50, 99, 100)))
    voxel_ml = float(np.prod(geometry.spacing)) / 1000
    counts = np.bincount(label.ravel(), minlength=len(recipe.labels) + 1)
    foreground = image[label > 0]
    row: Row = {
        "case": files.case,
        "patient": files.patient,
        "status": "accepted",
        "reason": "",
        "remedy": "",
    }
    row |= {"image": str(files.image), "label": str(files.label), "key": key}
    row |= {f"shape_{axis}": n for axis, n in zip("zyx", geometry.canonical_shape, strict=True)}
    row |= {f"spacing_{axis}": mm for axis, mm in zip("zyx", geometry.spacing, strict=True)}
    row |= {"orientation": geometry.orientation, "intensity_min": low, "intensity_p01": p01}
    row |= {"intensity_p50": p50, "intensity_p99": p99, "intensity_max": high}
    row |= _foreground(foreground)
    for name, index in recipe.classes.items():
        row |= {f"voxels_{name}": int(counts[index]), f"ml_{name}": float(counts[index]) * voxel_ml}
    return row


def _foreground(values: Floats) -> Row:
    """What normalisation needs to know of the labelled voxels; None where there are none."""
    if not values.size:
        return dict.fromkeys(("fg_mean", "fg_square", "fg_low", "fg_high"))
    low, high = np.percentile(values, (0.5, 99.5))
    wide = values.astype(np.float64)
    return {
        "fg_mean": float(wide.mean()),
        "fg_square": float((wide**2).mean()),
        "fg_low": float(low),
        "fg_high": float(high),
    }
