"""Spatial transforms of a batch: rotation, scaling, translation, elastic deformation, mirroring.

All are composed into one sampling grid, so that a patch is interpolated once. Grids are in the
normalised coordinates of `torch.nn.functional.grid_sample`: x, y, z from -1 to 1 between the outer
faces of the patch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.augmentation.chosen import apply_to_chosen
from pipeline.augmentation.resampling import resample
from pipeline.params import AugmentParams

CONTROL_POINTS = 4
"""Of the elastic grid, along each axis."""
AXES = {"z": 2, "y": 1, "x": 0}
"""Of the coordinates of a grid."""


@dataclass(frozen=True)
class SpatialDraw:
    """For each element of a batch: where each voxel takes its value from."""

    matrix: Tensor
    """(B, 3, 4), output to input coordinates."""
    displacement: Tensor
    """(B, 3, P, P, P), added to the input coordinates, x y z."""
    moved: Tensor
    """(B,) bool: whether the element is transformed at all."""


def draw_spatial(
    params: AugmentParams,
    shape: tuple[int, int, int, int, int],
    spacing: tuple[float, ...],
    generator: torch.Generator,
) -> SpatialDraw:
    """Draw a transform for each element of a batch of images (B, C, Z, Y, X)."""
    batch = shape[0]
    half_extent = torch.tensor([n * mm / 2 for n, mm in zip(shape[2:], spacing, strict=True)]).flip(0)
    affine = _bernoulli(params.affine_probability, batch, generator)
    rotation = _rotations(params.rotation_degrees, half_extent, batch, generator)
    scale = _log_uniform(params.scale, (batch, 1, 1), generator)
    shift = _uniform(-params.translation_share, params.translation_share, (batch, 3), generator) * 2
    identity = torch.eye(3).expand(batch, 3, 3)
    linear = torch.where(affine[:, None, None], rotation / scale, identity)
    mirror = _mirrors(params.mirror_axes, batch, generator)
    matrix = torch.cat([linear * mirror[:, None, :], (shift * affine[:, None])[:, :, None]], dim=2)

    elastic = _bernoulli(params.elastic_probability, batch, generator)
    points = (batch, 3, *[CONTROL_POINTS] * 3)
    millimetres = _uniform(-params.elastic_millimetres, params.elastic_millimetres, points, generator)
    displacement = millimetres / half_extent[None, :, None, None, None] * elastic[:, None, None, None, None]
    return SpatialDraw(matrix, displacement, affine | elastic | (mirror < 0).any(dim=1))


def apply_spatial(
    image: Tensor, label: Tensor, drawn: SpatialDraw, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """Resample image (B, C, Z, Y, X) linearly and label (B, Z, Y, X) to the nearest voxel.

    What comes from outside the patch repeats its edge, in both alike. Elements that are not moved
    are not interpolated: they stay as they are.

    Args:
        image: on any device.
        label: on the same device, class indices.
        drawn: on the same device.
        whole: as `apply_to_chosen` has it.
    """
    moved = (drawn.matrix, drawn.displacement)
    transform = _moved_at_once if whole else _moved_on_cpu
    image, label = apply_to_chosen(transform, (image, label), moved, drawn.moved, whole)
    return image, label


def _moved_on_cpu(
    image: Tensor, label: Tensor, matrix: Tensor, displacement: Tensor
) -> tuple[Tensor, Tensor]:
    """As `_moved_at_once`, in the way that is quick on a CPU."""
    size = image.shape[2:]
    fields = [_between_points(points[None], size)[0] if points.any() else None for points in displacement]
    return resample(image, label, matrix, fields)


def _moved_at_once(
    image: Tensor, label: Tensor, matrix: Tensor, displacement: Tensor
) -> tuple[Tensor, Tensor]:
    size = image.shape[2:]
    grid = functional.affine_grid(matrix.to(image), [len(image), 1, *size], align_corners=False)
    grid = grid + _between_points(displacement.to(image), size).movedim(1, -1)
    moved_image = functional.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    moved_label = functional.grid_sample(
        label[:, None].to(image), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    return moved_image, moved_label[:, 0].to(label.dtype)


def _between_points(displacement: Tensor, size: torch.Size) -> Tensor:
    """Displacements (B, 3, P, P, P) of control points, the outer ones on the faces, as (B, 3, Z, Y, X).

    Linear along each axis; a product of matrices is that in a tenth of the time of an interpolation.
    """
    for edge in size:
        points = displacement.shape[2]
        place = torch.linspace(0, points - 1, edge, device=displacement.device)
        weights = (1 - (place[:, None] - torch.arange(points, device=place.device)).abs()).clamp_min(0)
        # The next axis is always the third: a finished one moves to the end.
        displacement = torch.tensordot(displacement, weights, dims=([2], [1]))
    return displacement


def _rotations(degrees: float, half_extent: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    """Rotations in millimetres, written in normalised coordinates, (B, 3, 3).

    In a patch that is flat along an axis, tilting that axis moves its content out of the patch, so
    the angle about the other two is scaled down by the flatness.
    """
    flat = half_extent / half_extent.max()
    # Turning about x moves y and z: what limits it is the flattest of the other two axes.
    limits = torch.stack([torch.min(flat[[j for j in range(3) if j != i]]) for i in range(3)])
    angles = _uniform(-1, 1, (batch, 3), generator) * math.radians(degrees) * limits
    cos, sin = angles.cos(), angles.sin()
    total = torch.eye(3).expand(batch, 3, 3)
    for axis in range(3):
        first, second = [j for j in range(3) if j != axis]
        turn = torch.eye(3).repeat(batch, 1, 1)
        turn[:, first, first] = turn[:, second, second] = cos[:, axis]
        turn[:, first, second] = -sin[:, axis]
        turn[:, second, first] = sin[:, axis]
        total = total @ turn
    return total * half_extent[None, None, :] / half_extent[None, :, None]


def _mirrors(axes: tuple[str, ...], batch: int, generator: torch.Generator) -> Tensor:
    """-1 where an axis is mirrored, else 1, (B, 3) as x y z."""
    signs = torch.ones(batch, 3)
    for axis in axes:
        signs[:, AXES[axis]] = 1 - 2 * _bernoulli(0.5, batch, generator).float()
    return signs


def _bernoulli(probability: float, batch: int, generator: torch.Generator) -> Tensor:
    return torch.rand(batch, generator=generator) < probability


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _log_uniform(limits: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """As often twice as large as half as large."""
    return _uniform(math.log(limits[0]), math.log(limits[1]), shape, generator).exp()
