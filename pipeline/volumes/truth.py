"""What is true of a case: its masks as label values and class indices, and which labels were looked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.labels import UNKNOWN
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.geometry import Geometry, from_canonical, to_canonical
from pipeline.volumes.masks import Masks, read_masks
from pipeline.volumes.names import label_of, quoted
from pipeline.volumes.recipe import Recipe


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
