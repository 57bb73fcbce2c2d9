import pytest
import torch
from torch import Tensor

from pipeline.augmentation.policy import apply, draw
from pipeline.params import AugmentParams

SHAPE = (4, 1, 8, 12, 16)
SPACING = (3.0, 1.0, 1.0)
ALWAYS = AugmentParams(affine_probability=1, elastic_probability=1, intensity_probability=1)


def batch():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(SHAPE, generator=generator)
    return image, torch.randint(0, 4, (SHAPE[0], *SHAPE[2:]), generator=generator)


def drawn(params, seed=0):
    return draw(params, SHAPE, SPACING, torch.Generator().manual_seed(seed))


def test_shapes_and_types_stay():
    image, label = batch()
    changed_image, changed_label = apply(image, label, drawn(ALWAYS))
    assert (changed_image.shape, changed_image.dtype) == (image.shape, torch.float32)
    assert (changed_label.shape, changed_label.dtype) == (label.shape, torch.int64)


def test_a_draw_replays_to_the_same_batch_and_another_seed_does_not():
    image, label = batch()
    first, same, other = (apply(image, label, drawn(ALWAYS, seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], same[0])
    assert torch.equal(first[1], same[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_intensities_change_without_the_label():
    image, label = batch()
    params = AugmentParams(affine_probability=0, elastic_probability=0, intensity_probability=1)
    changed_image, changed_label = apply(image, label, drawn(params))
    assert not torch.equal(changed_image, image)
    assert torch.equal(changed_label, label)


def test_nothing_switched_on_changes_nothing():
    image, label = batch()
    params = AugmentParams(affine_probability=0, elastic_probability=0, intensity_probability=0)
    changed_image, changed_label = apply(image, label, drawn(params))
    assert torch.equal(changed_image, image)
    assert torch.equal(changed_label, label)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_transforming_all_elements_or_the_chosen_ones_is_the_same(probability):
    image, label = batch()
    params = AugmentParams(
        affine_probability=probability,
        elastic_probability=probability,
        intensity_probability=probability,
        mirror_axes=("x",),
    )
    for seed in range(5):
        chosen = apply(image, label, drawn(params, seed))
        whole = apply(image, label, drawn(params, seed), whole=True)
        torch.testing.assert_close(whole[0], chosen[0])
        assert torch.equal(whole[1], chosen[1])


def test_the_elements_of_a_draw_are_drawn_as_the_whole_is():
    image, label = batch()
    whole = drawn(ALWAYS)
    expected = apply(image, label, whole)
    for first in (0, 2):
        part = slice(first, first + 2)
        found = apply(image[part], label[part], whole.elements(first, 2))
        torch.testing.assert_close(found[0], expected[0][part])
        assert torch.equal(found[1], expected[1][part])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_of_a_draw_what_the_cpu_does():
    # Large enough for every transform to matter, and drawn often enough for each to be among them.
    shape = (9, 2, 40, 56, 40)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(shape, generator=generator)
    label = torch.randint(0, 4, (shape[0], *shape[2:]), generator=generator)
    params = AugmentParams(elastic_probability=0.5, intensity_probability=0.5, mirror_axes=("x",))
    for seed in range(4):
        one = draw(params, shape, SPACING, torch.Generator().manual_seed(seed))
        expected = apply(image, label, one)
        found = apply(image.cuda(), label.cuda(), one.each(Tensor.cuda), whole=True)
        # Noise is interpolated here: a coordinate that differs in its last bits matters more than in a scan.
        torch.testing.assert_close(found[0].cpu(), expected[0], atol=2e-3, rtol=1e-3)
        assert (found[1].cpu() != expected[1]).float().mean() < 1e-3
