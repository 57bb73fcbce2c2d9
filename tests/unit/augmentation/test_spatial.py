import math

import pytest
import torch

from pipeline.augmentation.spatial import SpatialDraw, apply_spatial, draw_spatial
from pipeline.params import AugmentParams

OFF = {"affine_probability": 0, "elastic_probability": 0}
ROTATION = OFF | {"affine_probability": 1, "scale": (1, 1), "translation_share": 0}
ISOTROPIC = (1.0, 1.0, 1.0)


def drawn(shape, spacing=ISOTROPIC, seed=0, **params):
    return draw_spatial(AugmentParams(**params), shape, spacing, torch.Generator().manual_seed(seed))


def coordinates(shape, spacing):
    """Millimetres from the middle of the patch, (3, Z, Y, X), as z y x."""
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def in_millimetres(matrix, shape, spacing):
    """The linear part of matrices (B, 3, 4), from normalised coordinates to millimetres x y z."""
    half = torch.tensor([n * mm / 2 for n, mm in zip(shape, spacing, strict=True)]).flip(0)
    return matrix[:, :, :3] * half[:, None] / half[None, :]


def dice(one, other):
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_image_and_label_move_together():
    label = (torch.rand((6, 4, 4, 4), generator=torch.Generator().manual_seed(1)) < 0.5).long()
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    image = label[:, None].float()
    draw = drawn(
        image.shape,
        affine_probability=0.8,
        elastic_probability=0.8,
        rotation_degrees=30,
        mirror_axes=("z", "y", "x"),
    )
    moved_image, moved_label = apply_spatial(image, label, draw)
    # Where the linear interpolation saw one class alone, the nearest voxel was of that class.
    certain = (moved_image[:, 0] - 0.5).abs() > 0.4999
    assert certain.float().mean() > 0.3
    assert torch.equal(moved_image[:, 0][certain].round().long(), moved_label[certain])
    assert (moved_label != label).float().mean() > 0.1


def test_a_draw_of_nothing_returns_the_batch_itself():
    image, label = torch.randn(2, 1, 6, 8, 10), torch.ones(2, 6, 8, 10, dtype=torch.long)
    moved_image, moved_label = apply_spatial(image, label, drawn(image.shape, **OFF))
    assert moved_image is image
    assert moved_label is label


def test_an_element_that_is_not_moved_keeps_every_bit():
    image = torch.randn((8, 1, 6, 9, 11), generator=torch.Generator().manual_seed(2)) * 1000
    label = torch.randint(0, 5, (8, 6, 9, 11), generator=torch.Generator().manual_seed(3))
    draw = drawn(image.shape, affine_probability=0.5, elastic_probability=0)
    assert 0 < int(draw.moved.sum()) < len(image)
    moved_image, moved_label = apply_spatial(image, label, draw)
    assert torch.equal(moved_image[~draw.moved], image[~draw.moved])
    assert torch.equal(moved_label[~draw.moved], label[~draw.moved])
    assert all(not torch.equal(moved_image[b], image[b]) for b in draw.moved.nonzero()[:, 0])


@pytest.mark.parametrize("whole", [False, True])
def test_where_all_points_of_the_elastic_grid_move_alike_so_does_every_voxel(whole):
    image = torch.randn((1, 1, 8, 10, 12), generator=torch.Generator().manual_seed(2))
    label = torch.randint(0, 5, (1, 8, 10, 12), generator=torch.Generator().manual_seed(3))
    # Of an edge that is two long; x y z.
    voxels = torch.tensor([3.0, 0.0, 2.0])
    displacement = (2 * voxels / torch.tensor([12, 10, 8])).view(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 4)
    draw = SpatialDraw(torch.eye(3, 4)[None], displacement, torch.tensor([True]))
    moved_image, moved_label = apply_spatial(image, label, draw, whole)
    torch.testing.assert_close(moved_image[:, :, :-2, :, :-3], image[:, :, 2:, :, 3:], atol=1e-4, rtol=0)
    assert torch.equal(moved_label[:, :-2, :, :-3], label[:, 2:, :, 3:])


def test_the_batch_that_is_given_stays_as_it_was():
    image, label = torch.randn(4, 1, 8, 8, 8), torch.randint(0, 3, (4, 8, 8, 8))
    before = image.clone(), label.clone()
    apply_spatial(image, label, drawn(image.shape, affine_probability=1, mirror_axes=("x",)))
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])


def test_a_rotated_ball_stays_a_ball_in_millimetres():
    shape, spacing = (16, 48, 48), (3.0, 1.0, 1.0)
    ball = (coordinates(shape, spacing).norm(dim=0) < 15).long().expand(8, *shape)
    draw = drawn((8, 1, *shape), spacing, **ROTATION, rotation_degrees=60)
    _, turned = apply_spatial(ball[:, None].float(), ball, draw)
    assert min(dice(one == 1, ball[0] == 1) for one in turned) > 0.95


def test_a_rotation_turns_what_is_not_round():
    shape, spacing = (16, 48, 48), (3.0, 1.0, 1.0)
    z, y, x = coordinates(shape, spacing)
    rod = ((z.abs() < 4) & (y.abs() < 4) & (x.abs() < 20)).long().expand(8, *shape)
    draw = drawn((8, 1, *shape), spacing, **ROTATION, rotation_degrees=60)
    _, turned = apply_spatial(rod[:, None].float(), rod, draw)
    assert min(dice(one == 1, rod[0] == 1) for one in turned) < 0.5


def test_rotations_keep_lengths_and_sides():
    shape, spacing = (12, 40, 32), (2.5, 0.7, 1.1)
    draw = drawn((16, 1, *shape), spacing, **ROTATION, rotation_degrees=90)
    linear = in_millimetres(draw.matrix, shape, spacing)
    torch.testing.assert_close(linear @ linear.mT, torch.eye(3).expand(16, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones(16), atol=1e-5, rtol=0)


def test_a_flat_patch_is_tilted_less_than_it_is_turned():
    shape, degrees = (8, 64, 64), 40
    draw = drawn((400, 1, *shape), **ROTATION, rotation_degrees=degrees)
    linear = in_millimetres(draw.matrix, shape, ISOTROPIC)
    tilt = torch.acos(linear[:, 2, 2].clamp(-1, 1)).rad2deg()
    turn = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).abs().rad2deg()
    assert 0.5 * degrees / 8 < tilt.max() < degrees / 8 * math.sqrt(2) + 1e-3
    assert 0.9 * degrees < turn.max() < 1.05 * degrees


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_mirroring_flips_its_axis_alone(axis):
    image = torch.randn((24, 2, 5, 6, 8), generator=torch.Generator().manual_seed(4))
    label = torch.randint(0, 9, (24, 5, 6, 8), generator=torch.Generator().manual_seed(5))
    draw = drawn(image.shape, **OFF, mirror_axes=(axis,))
    assert 0 < int(draw.moved.sum()) < 24
    moved_image, moved_label = apply_spatial(image, label, draw)
    dimension = 1 + "zyx".index(axis)
    assert torch.equal(moved_label[draw.moved], label[draw.moved].flip(dimension))
    expected = image[draw.moved].flip(dimension + 1)
    torch.testing.assert_close(moved_image[draw.moved], expected, atol=1e-5, rtol=0)


def test_no_axis_is_mirrored_that_is_not_named():
    draw = drawn((200, 1, 4, 4, 4), **OFF, mirror_axes=("y",))
    diagonal = draw.matrix.diagonal(dim1=1, dim2=2)
    assert torch.equal(diagonal[:, [0, 2]], torch.ones(200, 2))
    assert set(diagonal[:, 1].tolist()) == {1.0, -1.0}


def test_a_scale_of_two_shows_things_twice_as_large():
    label = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    label[:, 6:10, 6:10, 6:10] = 1
    draw = drawn(
        (1, 1, 16, 16, 16),
        affine_probability=1,
        elastic_probability=0,
        rotation_degrees=0,
        scale=(2, 2),
        translation_share=0,
    )
    _, moved = apply_spatial(label[:, None].float(), label, draw)
    expected = torch.zeros_like(label)
    expected[:, 4:12, 4:12, 4:12] = 1
    assert torch.equal(moved, expected)


def test_scales_are_as_often_large_as_small_and_within_their_range():
    draw = drawn(
        (600, 1, 8, 8, 8),
        affine_probability=1,
        elastic_probability=0,
        rotation_degrees=0,
        scale=(0.5, 2),
        translation_share=0,
    )
    scale = 1 / draw.matrix[:, 0, 0]
    assert 0.5 - 1e-5 <= scale.min() < 0.55
    assert 1.8 < scale.max() <= 2 + 1e-5
    assert 0.4 < (scale > 1).float().mean() < 0.6


def test_a_shift_is_at_most_its_share_of_the_edge():
    shape, share = (10, 20, 40), 0.1
    draw = drawn(
        (64, 1, *shape),
        affine_probability=1,
        elastic_probability=0,
        rotation_degrees=0,
        scale=(1, 1),
        translation_share=share,
    )
    for axis, edge in enumerate(shape):
        position = coordinates(shape, ISOTROPIC)[axis].expand(64, 1, *shape)
        moved, _ = apply_spatial(position, torch.zeros(64, *shape, dtype=torch.long), draw)
        shift = (moved - position).abs().amax(dim=(1, 2, 3, 4))
        assert 0.8 * share * edge < shift.max() <= share * edge + 1e-4


def test_an_elastic_deformation_moves_by_at_most_its_millimetres():
    shape, spacing = (8, 20, 24), (3.0, 1.0, 1.5)
    draw = drawn((8, 1, *shape), spacing, affine_probability=0, elastic_probability=1, elastic_millimetres=2)
    for axis in range(3):
        position = coordinates(shape, spacing)[axis].expand(8, 1, *shape)
        moved, _ = apply_spatial(position, torch.zeros(8, *shape, dtype=torch.long), draw)
        distance = (moved - position).abs()
        assert 1 < distance.max() <= 2 + 1e-4
        assert distance.std() > 0.1


def test_what_lies_outside_repeats_the_edge_of_image_and_label():
    label = torch.arange(8).expand(1, 8, 8, 8).contiguous()
    matrix = torch.eye(3, 4)[None].clone()
    matrix[0, 0, 3] = 0.5  # A quarter of the patch, two voxels along x.
    draw = SpatialDraw(matrix, torch.zeros(1, 3, 2, 2, 2), torch.tensor([True]))
    image, moved = apply_spatial(label[:, None].float(), label, draw)
    expected = torch.tensor([2, 3, 4, 5, 6, 7, 7, 7])
    assert torch.equal(moved[0, 0, 0], expected)
    torch.testing.assert_close(image[0, 0, 0, 0], expected.float(), atol=1e-5, rtol=0)


def test_a_draw_replays_to_the_same_result():
    image, label = torch.randn(4, 1, 8, 10, 12), torch.randint(0, 3, (4, 8, 10, 12))
    draw = drawn(image.shape, elastic_probability=1)
    first, second = apply_spatial(image, label, draw), apply_spatial(image, label, draw)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_the_seed_of_the_generator_decides_the_draw():
    params = {"elastic_probability": 0.5, "mirror_axes": ("x", "y")}
    one, same, other = (drawn((8, 1, 8, 8, 8), seed=seed, **params) for seed in (7, 7, 8))
    assert torch.equal(one.matrix, same.matrix)
    assert torch.equal(one.displacement, same.displacement)
    assert torch.equal(one.moved, same.moved)
    assert not torch.equal(one.matrix, other.matrix)


def test_draws_of_one_generator_and_elements_of_one_draw_differ():
    generator = torch.Generator().manual_seed(0)
    params = AugmentParams(affine_probability=1)
    one, next_one = (draw_spatial(params, (2, 1, 8, 8, 8), ISOTROPIC, generator) for _ in range(2))
    assert not torch.equal(one.matrix, next_one.matrix)
    assert not torch.equal(one.matrix[0], one.matrix[1])
