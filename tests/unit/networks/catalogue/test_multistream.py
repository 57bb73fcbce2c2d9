import pytest
import torch

from pipeline.networks.catalogue.multistream import MultiStream, filled, present


def built(channels=2, **options):
    torch.manual_seed(0)
    return MultiStream(channels, 3, width=0.125, **options)


def test_one_stream_absent_still_predicts():
    network = built().eval()
    image = torch.randn(1, 2, 8, 8, 16)
    image[:, 1] = 7.0
    other = image.clone()
    other[:, 1] = -3.0
    with torch.no_grad():
        said = network(image)
        assert torch.isfinite(said).all()
        # Whatever an absent modality is filled with, it counts for nothing.
        torch.testing.assert_close(network(other), said, atol=0, rtol=0)
        whole = image.clone()
        whole[:, 1] = torch.randn(8, 8, 16)
        assert not torch.allclose(network(whole), said, atol=1e-4)


def test_present_streams_stand_for_an_absent_one():
    features = torch.tensor([[[1.0], [3.0], [100.0]]])[..., None, None, None]
    there = torch.tensor([[True, True, False]])
    assert filled(features, there).flatten().tolist() == [1, 3, 2]


def test_a_flat_channel_is_absent_but_never_all():
    image = torch.zeros(2, 2, 4, 4, 4)
    image[0, 0] = torch.randn(4, 4, 4)
    assert present(image).tolist() == [[True, False], [True, True]]


def test_in_training_modalities_are_taken_away_and_one_stays():
    network = built(3, drop_modality=0.6).train()
    there = torch.ones(4000, 3, dtype=torch.bool)
    torch.manual_seed(0)
    kept = network._kept(there)
    assert kept.any(1).all()
    # One in 0.6^3 of the steps would lose all; then one of them stays.
    assert kept.float().mean() == pytest.approx(0.4 + 0.6**3 / 3, abs=0.02)
    assert network.eval()._kept(there).all()


def test_two_down_sampled_classifiers_are_judged_beside_the_output():
    outputs = built().train()(torch.randn(2, 2, 8, 8, 16))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 8, 16)] * 3
    network = built()
    classes = 3
    inputs = [fusion[0].in_channels - 2 * fusion[0].out_channels for fusion in network.fusions]
    assert inputs == [0, classes, classes]


def test_a_probability_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"drop_modality is 1\.5"):
        built(drop_modality=1.5)
