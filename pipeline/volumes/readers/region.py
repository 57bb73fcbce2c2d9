"""What contours and segmentations give: regions of an image, by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers import is_dicom


@dataclass(frozen=True)
class Region:
    """The voxels (I, J, K) of an image that one name means."""

    array: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    """What a person should know of how they came about."""


class Annotation(Protocol):
    """A file that holds regions by name."""

    names: list[str]
    empty: frozenset[str]
    """Names that come with nothing, as templates leave them: nobody looked for these."""

    def region(self, name: str, geometry: Geometry) -> Region:
        """The voxels of one name, in the geometry of its image."""


def annotation_in(path: Path) -> Annotation | None:
    """The file, opened, if it holds regions by name."""
    if not is_dicom(path):
        return None
    from pipeline.volumes.readers.annotation import modality

    kind = modality(path)
    if kind == "RTSTRUCT":
        from pipeline.volumes.readers.rtstruct import Contours

        return Contours(path)
    if kind == "SEG":
        from pipeline.volumes.readers.segmentation import Segments

        return Segments(path)
    return None
