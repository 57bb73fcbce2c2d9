"""Supervoxels: a volume cut into small regions that keep to the edges in the image."""

import numpy as np
from numpy.typing import NDArray

from pipeline.volumes.geometry import Floats, Triple

ROUNDS = 5
NEIGHBOURS = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def supervoxels(
    image: Floats, spacing: Triple, edge_mm: float, compactness: float = 0.3
) -> NDArray[np.int32]:
    """Simple linear iterative clustering (Achanta et al., PAMI 34, 2012) of a volume.

    Seeds lie on a grid; a voxel belongs to the nearest of the 27 around it, by place and intensity, and a
    seed moves to the middle of its voxels. A region need not be connected, as no repair follows.

    Args:
        image: (Z, Y, X).
        spacing: (z, y, x) millimetres.
        edge_mm: from seed to seed.
        compactness: what a step as long as `edge_mm` costs, in standard deviations of the image.

    Returns:
        (Z, Y, X), the number of each voxel's region, from 0 on; numbers without a voxel are left out.
    """
    shape = image.shape
    # No more than voxels, however small an edge is asked for.
    seeds = np.array([min(n, max(1, round(n * mm / edge_mm))) for n, mm in zip(shape, spacing, strict=True)])
    places = np.indices(shape, np.float32).reshape(3, -1)
    home = np.stack(
        [
            np.minimum(axis * count // n, count - 1)
            for axis, count, n in zip(places, seeds, shape, strict=True)
        ]
    ).astype(np.int32)
    features = np.concatenate(
        [
            places * (np.array(spacing, np.float32)[:, None] * compactness / edge_mm),
            image.reshape(1, -1) / max(float(image.std()), 1e-6),
        ]
    )
    region = np.ravel_multi_index(tuple(home), tuple(seeds))
    count = int(seeds.prod())
    for _ in range(ROUNDS):
        centres = _means(features, region, count)
        region = _nearest(features, centres, home, seeds)
    _, numbered = np.unique(region, return_inverse=True)
    return numbered.reshape(shape).astype(np.int32)


def _means(features: Floats, region: NDArray[np.intp], count: int) -> Floats:
    """Of the features (4, voxels) in each region, (4, regions); infinite where it has no voxel."""
    voxels = np.bincount(region, minlength=count)
    sums = np.stack([np.bincount(region, one, minlength=count) for one in features])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(voxels > 0, sums / voxels, np.inf).astype(np.float32)


def _nearest(
    features: Floats, centres: Floats, home: NDArray[np.int32], seeds: NDArray[np.int64]
) -> NDArray[np.intp]:
    """The region whose centre is nearest to each voxel, of those of the seeds around its own."""
    best = np.full(features.shape[1], np.inf, np.float32)
    region = np.zeros(features.shape[1], np.intp)
    limit = (seeds - 1)[:, None]
    for step in NEIGHBOURS:
        # At the border a seed outside stands for the one next to it, which is looked at anyway.
        other = np.ravel_multi_index(tuple(np.clip(home + step[:, None], 0, limit)), tuple(seeds))
        apart = ((features - centres[:, other]) ** 2).sum(0)
        nearer = apart < best
        best[nearer], region[nearer] = apart[nearer], other[nearer]
    return region
