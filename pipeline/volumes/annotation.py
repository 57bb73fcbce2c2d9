"""What an annotation that is no full outline says of each voxel: which class, none, or nobody knows."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.labels import UNKNOWN
from pipeline.volumes.geometry import Triple

LabelMap = NDArray[np.uint8]
AROUND = 1.5
"""Up to so many times its size, nobody knows whether a voxel is of what a point marks."""
TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels that share a face, an edge or a corner are one point."""


@dataclass(frozen=True)
class Annotation:
    """How the cases of an organ were annotated; of images, only which slices hold it is known."""

    kind: Literal["full", "sparse", "points", "image"] = "full"
    unlabelled: int | None = None
    """sparse: the value of voxels nobody looked at; None: those of every slice without a labelled voxel."""
    size_mm: Triple = (0.0, 0.0, 0.0)
    """points: how large what a point marks is, (z, y, x)."""

    def applied(self, label: LabelMap, spacing: Triple) -> LabelMap:
        """The label map (Z, Y, X), canonical, with UNKNOWN where nobody can tell.

        Args:
            label: values of classes, 0 where none was drawn.
            spacing: millimetres, (z, y, x).
        """
        if self.kind == "sparse":
            return self._sparse(label)
        if self.kind == "points":
            return self._grown(label, spacing)
        return label

    def stored(self, label: LabelMap) -> LabelMap:
        """The label map (Z, Y, X) as a volume holds it: of images, a slice's classes are all over it.

        So each part of a slice tells which classes it holds; they take turns from voxel to voxel.
        """
        if self.kind != "image":
            return label
        _, rows, columns = label.shape
        turns = np.add.outer(np.arange(rows), np.arange(columns))
        result = np.zeros_like(label)
        for number, one in enumerate(label):
            held = np.unique(one[one > 0])
            if len(held):
                result[number] = held[turns % len(held)]
        return result

    def _sparse(self, label: LabelMap) -> LabelMap:
        """After Çiçek et al., MICCAI 2016: what is not annotated is not learned from."""
        if self.unlabelled is not None:
            return np.where(label == self.unlabelled, np.uint8(UNKNOWN), label)
        drawn: NDArray[np.bool_] = np.asarray((label > 0).any(axis=(1, 2)))
        return np.where(drawn[:, None, None], label, np.uint8(UNKNOWN))

    def _grown(self, label: LabelMap, spacing: Triple) -> LabelMap:
        """After Anirudh et al., SPIE 9785, 2016: what lies around a point, as large as it may be, is it.

        A voxel belongs to the nearest point, measured in sizes.
        """
        result = np.zeros_like(label)
        nearest = np.full(label.shape, AROUND, np.float32)
        # Half a size, in voxels.
        reach = np.array(self.size_mm) / spacing / 2
        points, _ = ndimage.label(label > 0, TOUCHING)
        for number, box in enumerate(ndimage.find_objects(points), start=1):
            inside = points[box] == number
            middle = [place.mean() + part.start for place, part in zip(np.nonzero(inside), box, strict=True)]
            part = tuple(
                slice(max(0, int(centre - AROUND * half)), min(n, int(centre + AROUND * half) + 2))
                for centre, half, n in zip(middle, reach, label.shape, strict=True)
            )
            where = np.ogrid[part]
            apart = np.sqrt(
                sum(((place - c) / half) ** 2 for place, c, half in zip(where, middle, reach, strict=True))
            )
            # Of what lies between the voxels, the nearest are it.
            apart = (apart / max(1.0, apart.min())).astype(np.float32)
            near = apart < nearest[part]
            value = label[box][inside].max()
            np.copyto(result[part], np.where(apart <= 1, value, np.uint8(UNKNOWN)), where=near)
            np.copyto(nearest[part], apart, where=near)
        return result


FULL = Annotation()
"""Every voxel was looked at."""
