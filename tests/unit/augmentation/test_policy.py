import torch

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
