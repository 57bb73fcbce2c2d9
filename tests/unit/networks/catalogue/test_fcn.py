import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.networks.catalogue.fcn import FCN


def test_its_trunk_is_that_of_vgg_16():
    network = FCN(3, 21)
    counts = [[each.out_channels for each in block if isinstance(each, nn.Conv2d)] for block in network.trunk]
    assert counts == [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3]
    last = [each for each in network.classifier if isinstance(each, nn.Conv2d)]
    assert [(each.out_channels, each.kernel_size) for each in last] == [(4096, (7, 7)), (4096, (1, 1))]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("stride", "skips"), [(32, 0), (16, 1), (8, 2)])
def test_finer_scores_are_added_by_stride(dims, stride, skips):
    """Without the last scores, what is left changes at the stride of the finest ones that are added."""
    network = FCN(1, 2, dims=dims, stride=stride, width=1 / 32).eval()
    assert len(network.skip_scores) == skips
    image = torch.randn(1, 1, 32 if dims == 3 else 1, 32, 64)
    with torch.no_grad():
        logits = network(image)
        nn.init.zeros_(network.score.weight)
        nn.init.zeros_(network.score.bias)
        rest = network(image)
    assert logits.shape == (1, 2, *image.shape[2:])
    # With nothing added the scores are all there is.
    assert bool(rest.abs().max() > 0) is (skips > 0)


def test_scores_of_a_skip_are_added_to_the_upsampled_ones():
    torch.manual_seed(0)
    coarse, fine = FCN(1, 2, stride=32, width=1 / 32).eval(), FCN(1, 2, stride=16, width=1 / 32).eval()
    coarse.load_state_dict({name: value for name, value in fine.state_dict().items() if "skip" not in name})
    pooled = []
    fine.trunk[3].register_forward_hook(lambda _block, _given, made: pooled.append(made))
    image = torch.randn(1, 1, 1, 64, 64)
    scores = []
    coarse.score.register_forward_hook(lambda _layer, _given, made: scores.append(made))
    with torch.no_grad():
        logits = fine(image)
        coarse(image)
        added = fine.skip_scores[0](functional.max_pool2d(pooled[0], 2))
        expected = functional.interpolate(scores[0], scale_factor=2, mode="bilinear") + added
        expected = functional.interpolate(expected, scale_factor=16, mode="bilinear")
    torch.testing.assert_close(logits[:, :, 0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"dims": 1}, {"stride": 4}])
def test_a_wrong_option_is_refused(wrong):
    with pytest.raises(ValueError, match="they are 2 or 3, and 32, 16 or 8"):
        FCN(1, 2, **wrong)
