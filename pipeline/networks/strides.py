"""How often, and along which axes, a U-Net halves its patch, and how far its kernels reach."""

from collections.abc import Sequence

from pipeline.networks.base import Index


def plan_strides(patch_size: Sequence[int], spacing: Sequence[float], levels: int) -> list[Index]:
    """Strides for `levels` resolutions: axes are halved once they are no coarser than the finest.

    Thick slices are not halved before the plane has come near them, and no axis falls below four
    voxels; one that cannot be halved any more does not hold back the others (after nnU-Net:
    Isensee et al., Nature Methods 2021).

    Args:
        patch_size: (z, y, x) voxels.
        spacing: (z, y, x) millimetres.
        levels: number of resolutions.
    """
    strides: list[Index] = [(1, 1, 1)]
    size, millimetres = list(patch_size), list(spacing)
    for _ in range(levels - 1):
        divisible = [edge % 2 == 0 and edge >= 8 for edge in size]
        finest = min((step for step, can in zip(millimetres, divisible, strict=True) if can), default=0.0)
        z, y, x = (
            2 if can and step < 2 * finest else 1 for step, can in zip(millimetres, divisible, strict=True)
        )
        strides.append((z, y, x))
        size = [edge // stride for edge, stride in zip(size, (z, y, x), strict=True)]
        millimetres = [step * stride for step, stride in zip(millimetres, (z, y, x), strict=True)]
    return strides


def plan_kernels(spacing: Sequence[float], strides: Sequence[Sequence[int]]) -> list[Index]:
    """Kernels for each resolution: three voxels, but one along an axis over twice as coarse as the finest.

    Between thick slices little is learned from a neighbour, until the plane is as coarse (after nnU-Net).

    Args:
        spacing: (z, y, x) millimetres.
        strides: of each resolution against the one before, (z, y, x).
    """
    kernels: list[Index] = []
    millimetres = list(spacing)
    for stride in strides:
        millimetres = [step * factor for step, factor in zip(millimetres, stride, strict=True)]
        z, y, x = (1 if step > 2 * min(millimetres) else 3 for step in millimetres)
        kernels.append((z, y, x))
    return kernels
