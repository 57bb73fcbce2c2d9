"""The masks of a case, whatever they are written as, as one label map in the geometry of its image."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.case_files import Mask
from pipeline.volumes.geometry import Floats, Geometry
from pipeline.volumes.names import label_of, quoted
from pipeline.volumes.readers import read_label_map, read_scan
from pipeline.volumes.readers.region import Annotation, Region, annotation_in

Labels = dict[str, int]
CHUNK = 1 << 20
"""Voxels looked at together: their copies stay in the processor's cache."""
COVERED = 0.5
"""Share of an organ that may be given to others it overlaps with."""


@dataclass(frozen=True)
class Masks:
    """What was labelled in an image."""

    array: NDArray[np.uint8]
    """(I, J, K) as the image's file, holding the values of the labels."""
    annotated: tuple[str, ...]
    """The labels that somebody looked for, in the order of their values: without a voxel they are absent."""
    notes: tuple[str, ...]
    """What a person should know of how it came about."""


@dataclass(frozen=True)
class _Source:
    """One thing with a name that may be an organ: a file, a region of interest, a segment."""

    name: str
    region: Callable[[], Region]
    empty: bool = False


def read_masks(
    case: str,
    root: Path,
    masks: Sequence[Mask],
    geometry: Geometry,
    labels: Labels,
    rois: dict[str, list[str]],
    unlabelled: int | None = None,
) -> Masks:
    """Read the masks of a case: one label map, or any number of organs in files, contours or segments.

    Args:
        case: its name, for messages.
        root: folder that the paths of `masks` begin at.
        masks: of the case.
        geometry: of the image.
        labels: names and values, 1 to 255.
        rois: by label, patterns of the names that mean it besides its own (`fnmatch`, case does not count).
        unlabelled: what a label map holds, besides, where nobody looked; None: no such value.

    Raises:
        DataError: a file is unreadable, does not lie on the image, holds what is not declared, or
            nothing in it is called like a label.
    """
    sources: list[_Source] = []
    for mask in masks:
        found = _sources(case, root, mask, geometry)
        if found is None and len(masks) == 1:
            return _label_map(case, root, mask, geometry, labels, unlabelled)
        if found is None:
            raise DataError(
                f"{case}: has {len(masks)} masks, and {mask.paths[0].name} does not say of which organ it is",
                "give one label map, or one file an organ that is called like its label",
            )
        sources += found
    organs, notes = _matched(case, sources, labels, rois)
    array, more = _combined(case, organs, geometry.shape, labels)
    return Masks(array, tuple(organs), (*notes, *more))


def check_aligned(case: str, image: Geometry, mask: Geometry, what: str = "label map") -> None:
    """Refuse a mask that lies elsewhere than its image.

    Raises:
        DataError: its shape differs, or by the headers a corner lies more than half a voxel apart.
    """
    if image.shape != mask.shape:
        raise DataError(
            f"{case}: the image has {image.shape} voxels and the {what} {mask.shape}",
            f"resample the {what} onto the image",
        )
    corners = np.array(
        [[i, j, k, 1] for i in (0, image.shape[0]) for j in (0, image.shape[1]) for k in (0, image.shape[2])]
    )
    apart = float(np.abs((image.affine - mask.affine) @ corners.T).max())
    if apart > 0.5 * min(image.spacing):
        raise DataError(
            f"{case}: image and {what} lie {apart:.1f} mm apart by their headers",
            f"resample the {what} onto the image, or mend the header that is wrong",
        )


def label_values(
    case: str, array: NDArray[Any], labels: Labels, unlabelled: int | None = None
) -> NDArray[np.uint8]:
    """The numbers of a label map as they are, in a byte each; bytes are returned, not copied.

    Raises:
        DataError: one is no declared label.
    """
    known = {0, *labels.values()} | ({unlabelled} if unlabelled is not None else set())
    stored = _as_bytes(array)
    # Where every byte up to the highest is known, the highest tells; else all are counted.
    if stored is not None and (
        known.issuperset(range(int(stored.max()) + 1)) or known.issuperset(_found(stored))
    ):
        return stored
    stray = [float(value) for value in np.unique(array) if float(value) not in known]
    declared = ", ".join(f"{value} {name}" for name, value in labels.items())
    # A scale that a program chose for numbers with fractions leaves 3.0000002 of a 3.
    whole = all(value.is_integer() for value in stray)
    raise DataError(
        f"{case}: the label map holds {', '.join(f'{value:.8g}' for value in stray[:5])}, "
        f"but declared are 0 and {declared}",
        "mend the label map, or declare the value in ingest.labels"
        if whole
        else "save it again as whole numbers that are not scaled",
    )


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8] | None:
    """The numbers in a byte each; None if one is no whole number from 0 to 255."""
    if array.dtype == np.uint8:
        return array
    stored = np.empty(array.shape, np.uint8, order="F")
    for part, whole in zip(_chunks(array), _chunks(stored), strict=True):
        if part.min() < 0 or part.max() > 255:
            return None
        whole[:] = part
        if not np.array_equal(whole, part):
            return None
    return stored


def _found(stored: NDArray[np.uint8]) -> list[int]:
    """The values that occur."""
    count = sum(np.bincount(part, minlength=256) for part in _chunks(stored))
    return np.flatnonzero(count).tolist()


def _chunks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Parts of an array, i fastest; views, if that is how it lies in memory."""
    flat = array.ravel(order="F")
    return (flat[start : start + CHUNK] for start in range(0, len(flat), CHUNK))


def _label_map(
    case: str, root: Path, mask: Mask, geometry: Geometry, labels: Labels, unlabelled: int | None
) -> Masks:
    scan = read_label_map(*(root / path for path in mask.paths))
    check_aligned(case, geometry, scan.geometry)
    array = label_values(case, scan.array, labels, unlabelled)
    return Masks(array, tuple(sorted(labels, key=lambda label: labels[label])), scan.origin.notes)


def _sources(case: str, root: Path, mask: Mask, geometry: Geometry) -> list[_Source] | None:
    """What a mask holds by name; None: it is a label map."""
    paths = [root / path for path in mask.paths]
    first = annotation_in(paths[0])
    if first is None and mask.label is None:
        return None
    if first is None:
        return [_Source(str(mask.label), partial(_organ, case, str(mask.label), paths, geometry))]
    # A folder may hold several.
    annotations = [first, *(found for path in paths[1:] if (found := annotation_in(path)) is not None)]
    if len(annotations) < len(paths):
        others = len(paths) - len(annotations)
        raise DataError(
            f"{case}: of the {len(paths)} DICOM files of its mask, {others} are neither RTSTRUCT nor SEG",
            "put what is no mask into another folder",
        )
    return [source for annotation in annotations for source in _regions(annotation, mask, geometry)]


def _regions(annotation: Annotation, mask: Mask, geometry: Geometry) -> list[_Source]:
    names = list(dict.fromkeys(annotation.names))
    # A file that is named after an organ and holds one region holds that organ.
    called = [mask.label] if mask.label is not None and len(names) == 1 else names
    return [
        _Source(alias, partial(annotation.region, name, geometry), name in annotation.empty)
        for alias, name in zip(called, names, strict=True)
    ]


def _organ(case: str, name: str, paths: list[Path], geometry: Geometry) -> Region:
    """The file of one organ: 0, and one value above."""
    scan = read_scan(*paths)
    check_aligned(case, geometry, scan.geometry, f"mask '{name}'")
    top = float(scan.array.max())
    inside = np.zeros(geometry.shape, np.bool_, order="F")
    for part, whole in zip(_chunks(scan.array), _chunks(inside), strict=True):
        np.equal(part, top if top > 0.5 else 1.0, out=whole)
        if not (whole | (part == 0)).all():
            raise DataError(
                f"{case}: the mask '{name}' holds {_first_values(scan.array)}, not 0 and one value above",
                "give one file an organ, of 0 and 1",
            )
    return Region(inside, scan.origin.notes if top > 0 else (*scan.origin.notes, f"'{name}': holds no voxel"))


def _first_values(array: Floats) -> str:
    values = np.unique(array)
    return ", ".join(f"{value:g}" for value in values[:5]) + (" and more" if len(values) > 5 else "")


def _matched(
    case: str, sources: Sequence[_Source], labels: Labels, rois: dict[str, list[str]]
) -> tuple[dict[str, list[_Source]], list[str]]:
    """The sources of each label that has any, in the order of the values, and notes.

    Raises:
        DataError: no label has one, or one has several that no pattern asked for.
    """
    meant = [label_of(case, source.name, labels, rois) for source in sources]
    organs: dict[str, list[_Source]] = {}
    notes: list[str] = []
    for label in sorted(labels, key=lambda label: labels[label]):
        named = [source for source, its in zip(sources, meant, strict=True) if its == label]
        drawn = [source for source in named if not source.empty]
        names = quoted([source.name for source in drawn or named])
        if drawn:
            organs[label] = drawn
        elif named:
            notes.append(f"{label}: {names} has no contours, taken as not looked for")
        if len(drawn) > 1 and not rois.get(label):
            raise DataError(
                f"{case}: {names} are all called like the label {label}",
                f"rename one, or write ingest.rois.{label} to unite them",
            )
        if len(drawn) > 1:
            notes.append(f"{label} is the union of {names}")
    if not organs:
        found = quoted([f"{source.name}{' (no contours)' if source.empty else ''}" for source in sources])
        raise DataError(
            f"{case}: nothing in its masks is called like a label ({', '.join(labels)}); they hold {found}",
            "write into ingest.rois, by label, patterns of the names that mean it",
        )
    return organs, notes


def _combined(
    case: str, organs: dict[str, list[_Source]], shape: tuple[int, int, int], labels: Labels
) -> tuple[NDArray[np.uint8], list[str]]:
    """One label map (I, J, K) of all organs, later ones over earlier ones, and notes.

    Raises:
        DataError: an organ would lose more than half of its voxels to others.
    """
    array = np.zeros(shape, np.uint8, order="F")
    flat = array.reshape(-1, order="F")
    sizes: Labels = {}
    lost = dict.fromkeys(organs, 0)
    notes: list[str] = []
    for label, sources in organs.items():
        inside, more = _union([source.region() for source in sources])
        covered = np.bincount(flat[inside], minlength=256)
        flat[inside] = labels[label]
        sizes[label] = int(covered.sum())
        notes += more
        for other in organs:
            count = int(covered[labels[other]])
            if count:
                lost[other] += count
                notes.append(f"{count} voxels are both {other} and {label}: they count as {label}")
    for label in organs:
        if lost[label] > COVERED * sizes[label]:
            raise DataError(
                f"{case}: {lost[label]} of the {sizes[label]} voxels of {label} are another organ as well",
                "mend the masks, or give the inner organ the higher value in ingest.labels",
            )
    return array, notes


def _union(regions: list[Region]) -> tuple[NDArray[np.bool_], list[str]]:
    """The voxels that are in any region, flat with i fastest, and the notes of all."""
    inside = regions[0].array.ravel(order="F")
    for region in regions[1:]:
        inside = inside | region.array.ravel(order="F")
    return inside, [note for region in regions for note in region.notes]
