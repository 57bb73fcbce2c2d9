import pytest
import torch
from scipy import ndimage

from pipeline.augmentation.intensity import (
    BLUR_RADIUS,
    NOISE,
    IntensityDraw,
    apply_intensity,
    draw_intensity,
    noise_values,
)
from pipeline.params import AugmentParams

BATCH = 4


@pytest.fixture
def image():
    return torch.randn((BATCH, 2, 7, 9, 11), generator=torch.Generator().manual_seed(0))


def strengths(**given):
    """A draw that does what is given and nothing else; one strength stands for the whole batch."""
    neutral = {"noise": 0.0, "blur": 0.0, "brightness": 0.0, "contrast": 1.0, "gamma": 1.0}
    tensors = {
        name: torch.as_tensor(value, dtype=torch.float32).expand(BATCH).clone()
        for name, value in (neutral | given).items()
    }
    return IntensityDraw(noise_start=torch.arange(BATCH) * 1_000_003, **tensors)


def mean(image):
    return image.mean(dim=(2, 3, 4))


def deviation(image):
    return image.flatten(2).std(dim=2)


def test_off_keeps_every_bit(image):
    assert torch.equal(apply_intensity(image * 1000, strengths()), image * 1000)


def test_a_probability_of_zero_draws_nothing(image):
    params = AugmentParams(intensity_probability=0)
    draw = draw_intensity(params, tuple(image.shape), torch.Generator().manual_seed(1))
    assert torch.equal(apply_intensity(image, draw), image)


@pytest.mark.parametrize(
    ("step", "strength"),
    [("noise", 0.3), ("blur", 0.8), ("brightness", 0.5), ("contrast", 1.4), ("gamma", 0.7)],
)
def test_only_the_chosen_elements_change(image, step, strength):
    neutral = 1.0 if step in ("contrast", "gamma") else 0.0
    draw = strengths(**{step: [neutral, strength, neutral, strength]})
    changed = apply_intensity(image, draw)
    assert torch.equal(changed[[0, 2]], image[[0, 2]])
    for element in (1, 3):
        assert (changed[element] - image[element]).abs().max() > 0.05


def test_strengths_lie_in_their_ranges_and_differ_between_elements():
    params = AugmentParams(
        intensity_probability=1,
        noise_std=(0.1, 0.2),
        blur_sigma=(0.5, 0.6),
        brightness=(-0.4, -0.3),
        contrast=(1.1, 1.2),
        gamma=(1.4, 1.5),
    )
    draw = draw_intensity(params, (50, 1, 4, 4, 4), torch.Generator().manual_seed(2))
    for drawn, (low, high) in [
        (draw.noise, params.noise_std),
        (draw.blur, params.blur_sigma),
        (draw.brightness, params.brightness),
        (draw.contrast, params.contrast),
        (draw.gamma, params.gamma),
    ]:
        assert low - 1e-6 <= drawn.min() < drawn.max() <= high + 1e-6


def test_the_probability_is_how_often_a_step_is_used():
    params = AugmentParams(intensity_probability=0.3, contrast=(1.5, 2.0))
    draw = draw_intensity(params, (2000, 1, 4, 4, 4), torch.Generator().manual_seed(3))
    assert 0.25 < (draw.contrast != 1).float().mean() < 0.35


def test_the_seed_of_the_generator_decides_the_draw():
    one, same, other = (
        draw_intensity(AugmentParams(), (16, 1, 4, 4, 4), torch.Generator().manual_seed(seed))
        for seed in (4, 4, 5)
    )
    assert not torch.equal(one.noise_start, other.noise_start)
    for name in ("noise", "noise_start", "blur", "brightness", "contrast", "gamma"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.gamma, other.gamma)


def test_noise_has_its_deviation_and_no_mean():
    image = torch.zeros(BATCH, 1, 24, 24, 24)
    added = apply_intensity(image, strengths(noise=[0.1, 0.2, 0.4, 0.8]))
    torch.testing.assert_close(deviation(added)[:, 0], torch.tensor([0.1, 0.2, 0.4, 0.8]), rtol=0.03, atol=0)
    assert mean(added).abs().max() < 0.03


def test_noise_is_that_of_its_draw_whatever_the_global_seed(image):
    draw = strengths(noise=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = apply_intensity(image, draw)
        torch.manual_seed(2)
        second = apply_intensity(image, draw)
    assert torch.equal(first, second)
    assert not torch.equal(first[0] - image[0], first[1] - image[1])


def test_noise_begins_where_it_was_drawn_to_and_again_after_its_end():
    draw = strengths(noise=1.0)
    draw.noise_start[1] = NOISE - 5
    added = apply_intensity(torch.zeros(BATCH, 1, 2, 3, 4), draw)[1].flatten()
    values = noise_values(torch.device("cpu"))
    assert torch.equal(added, torch.cat([values[-5:], values[:19]]))


def test_blur_is_the_truncated_gaussian_of_scipy(image):
    sigmas = [0.5, 0.7, 1.0, 0.0]
    blurred = apply_intensity(image, strengths(blur=sigmas))
    for element, sigma in enumerate(sigmas):
        for channel in range(image.shape[1]):
            expected = ndimage.gaussian_filter(
                image[element, channel].double().numpy(), sigma, mode="nearest", radius=BLUR_RADIUS
            )
            found = blurred[element, channel].double()
            torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_blur_of_a_constant_is_the_constant():
    image = torch.full((BATCH, 1, 5, 6, 7), 3.25)
    torch.testing.assert_close(apply_intensity(image, strengths(blur=1.0)), image)


def test_blur_of_a_patch_thinner_than_its_kernel_works():
    image = torch.randn((BATCH, 1, 2, 1, 9), generator=torch.Generator().manual_seed(6))
    assert apply_intensity(image, strengths(blur=1.0)).shape == image.shape


def test_brightness_is_added(image):
    torch.testing.assert_close(apply_intensity(image, strengths(brightness=0.3)), image + 0.3)


def test_contrast_keeps_the_mean_and_scales_the_deviation(image):
    changed = apply_intensity(image + 5, strengths(contrast=1.5))
    torch.testing.assert_close(mean(changed), mean(image) + 5)
    torch.testing.assert_close(deviation(changed), 1.5 * deviation(image))


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_gamma_keeps_mean_deviation_and_order(image, gamma):
    changed = apply_intensity(image, strengths(gamma=gamma))
    torch.testing.assert_close(mean(changed), mean(image), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation(changed), deviation(image))
    order = image.flatten(2).argsort(dim=2)
    assert (changed.flatten(2).gather(2, order).diff(dim=2) >= -1e-5).all()
    assert not torch.allclose(changed, image, atol=0.05)


def test_gamma_of_a_constant_is_the_constant():
    image = torch.full((BATCH, 1, 4, 4, 4), -2.0)
    torch.testing.assert_close(apply_intensity(image, strengths(gamma=0.7)), image)


def test_the_batch_that_is_given_stays_as_it_was(image):
    before = image.clone()
    apply_intensity(image, strengths(noise=0.1, blur=0.7, brightness=0.1, contrast=0.8, gamma=1.3))
    assert torch.equal(image, before)
