"""Where a patch lies in its volume."""

Index = tuple[int, int, int]


def patch_start(centre: Index, size: Index, shape: Index) -> Index:
    """The first voxel of a patch around `centre`, moved so that it stays within the volume.

    On an axis where the volume is smaller than the patch, the volume lies in the middle of it and
    the start is negative. All are (z, y, x) voxels.
    """
    z, y, x = (_start(c, edge, n) for c, edge, n in zip(centre, size, shape, strict=True))
    return z, y, x


def _start(centre: int, edge: int, length: int) -> int:
    if length <= edge:
        return -((edge - length) // 2)
    return min(max(centre - edge // 2, 0), length - edge)
