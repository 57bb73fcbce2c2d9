import torch

from pipeline.training.normalisation import normalise

HU = torch.tensor([-1000.0, -100.0, 50.0, 75.0, 300.0, 3000.0]).reshape(1, 1, 2, 3)
CHANNEL = {"image": 0, "clip": [-100.0, 300.0], "mean": 50.0, "std": 25.0}


def test_intensities_are_clipped_shifted_and_scaled():
    normalised = normalise(HU, [CHANNEL])
    assert normalised.shape == HU.shape
    assert normalised.flatten().tolist() == [-6.0, -6.0, 0.0, 1.0, 10.0, 10.0]


def test_a_channel_is_made_of_the_image_it_names():
    images = torch.cat([HU, HU + 25])
    channels = [CHANNEL | {"image": 1}, CHANNEL, CHANNEL | {"mean": 75.0}]
    normalised = normalise(images, channels)
    assert normalised.shape == (3, 1, 2, 3)
    for one, channel in zip(normalised, channels, strict=True):
        alone = normalise(images[channel["image"]][None], [channel | {"image": 0}])
        assert torch.equal(one, alone[0])


def test_every_case_of_a_batch_is_normalised_alike():
    batch = torch.stack([HU, HU - 10])
    channels = [CHANNEL, CHANNEL | {"clip": [0.0, 60.0]}]
    normalised = normalise(batch, channels)
    assert normalised.shape == (2, 2, 1, 2, 3)
    for one, image in zip(normalised, batch, strict=True):
        assert torch.equal(one, normalise(image, channels))
