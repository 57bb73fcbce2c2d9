import pytest
import torch

from pipeline.augmentation import resampling
from pipeline.augmentation.spatial import apply_spatial, draw_spatial
from pipeline.params import AugmentParams

ALWAYS = AugmentParams(
    affine_probability=1, elastic_probability=0.5, rotation_degrees=40, mirror_axes=("z", "y", "x")
)


@pytest.mark.parametrize("slab", [1, 300, 10**6])
@pytest.mark.parametrize("size", [(20, 17, 24), (1, 32, 24), (16, 1, 1)])
def test_it_is_what_grid_sample_gives_however_many_slices_are_resampled_at_once(slab, size, monkeypatch):
    monkeypatch.setattr(resampling, "SLAB_VOXELS", slab)
    generator = torch.Generator().manual_seed(0)
    # Smooth in the image, so that a place that differs in its last bits does not matter.
    image = torch.randn((6, 2, *size), generator=generator).cumsum(2).cumsum(3).cumsum(4) / 10
    label = torch.randint(0, 5, (6, *size), generator=generator)
    drawn = draw_spatial(ALWAYS, tuple(image.shape), (3.0, 1.0, 1.0), generator)
    elastic = drawn.displacement.flatten(1).any(dim=1)
    assert bool(elastic.any())
    assert not bool(elastic.all())
    moved_image, moved_label = apply_spatial(image, label, drawn)
    expected_image, expected_label = apply_spatial(image, label, drawn, whole=True)
    torch.testing.assert_close(moved_image, expected_image, atol=1e-4, rtol=1e-5)
    assert (moved_label != expected_label).float().mean() < 1e-3
