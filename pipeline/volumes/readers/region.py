"""What contours and segmentations give: regions of an image, by name."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.geometry import Geometry


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
