"""Heavier voxels between objects that are close to each other, so that they come apart."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.labels import UNKNOWN
from pipeline.params import BoundaryWeights
from pipeline.volumes.geometry import Floats

REACH = 6
"""Sigmas from an object at which it no longer adds to a weight of 1 in float32."""


def boundary_weights(
    label: NDArray[np.integer], spacing: Sequence[float], params: BoundaryWeights, dims: Literal[2, 3] = 3
) -> Floats:
    """What voxels weigh more: w0 exp(-(d1 + d2)^2 / (2 sigma^2)) (Ronneberger et al., MICCAI 2015).

    d1 and d2 are the distances, in millimetres, to the nearest object and to the second nearest. An object is
    a connected component (by faces) of one class; its own voxels are at distance 0 from it. Where there are
    not two objects within reach, the weight is 0.

    Args:
        label: (Z, Y, X), class indices or UNKNOWN, which is no object.
        spacing: (z, y, x) millimetres.
        params: w0 and sigma.
        dims: 2: every slice by itself.

    Returns:
        (Z, Y, X), float32.
    """
    if dims == 2 and len(label) > 1:
        return np.concatenate([boundary_weights(one[None], spacing, params) for one in label])
    nearest, second = np.full((2, *label.shape), np.inf)
    margin = [int(np.ceil(REACH * params.sigma / step)) for step in spacing]
    for value in np.setdiff1d(np.unique(label), [0, UNKNOWN]):
        objects, _ = ndimage.label(label == value)
        for number, box in enumerate(ndimage.find_objects(objects), start=1):
            around = tuple(
                slice(max(0, part.start - side), part.stop + side)
                for part, side in zip(box, margin, strict=True)
            )
            distance = ndimage.distance_transform_edt(objects[around] != number, spacing)
            first, next_one = nearest[around], second[around]
            np.minimum(next_one, np.maximum(first, distance), out=next_one)
            np.minimum(first, distance, out=first)
    weights: Floats = params.w0 * np.exp(-((nearest + second) ** 2) / (2 * params.sigma**2))
    return weights.astype(np.float32)
