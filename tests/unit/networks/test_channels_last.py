"""A network in the form that is fast says the same as the plain one, and learns the same."""

import copy

import pytest
import torch
from torch import nn

from pipeline.networks import build_network
from pipeline.networks.channels_last import FEW, FusedInstanceNorm, RowInstanceNorm, prepare

OPTIONS = {"channels": (4, FEW + 2), "strides": [(1, 1, 1), (2, 2, 2)]}
LAST = torch.channels_last_3d


def network():
    torch.manual_seed(0)
    built = build_network("residual_unet", 2, 3, OPTIONS)
    for name, weight in built.named_parameters():
        # Fresh norms scale by one and shift by nothing, which would hide a mistake.
        if weight.ndim == 1:
            nn.init.uniform_(weight, 0.5, 1.5) if name.endswith("weight") else nn.init.normal_(weight)
    return built


def image(channels=2, dims=3):
    sizes = (6, 8, 10)[-dims:]
    return torch.randn((2, channels, *sizes), generator=torch.Generator().manual_seed(1)) * 3 + 1


def gradients(built, given):
    built.zero_grad()
    given = given.detach().requires_grad_()
    found = built(given)
    # Not the same for every voxel, as a norm's gradient would be nothing.
    found.float().square().mul(
        torch.linspace(-1, 2, found[0, 0].numel()).view(found.shape[2:])
    ).mean().backward()
    return {name: weight.grad.clone() for name, weight in built.named_parameters()} | {"given": given.grad}


def test_a_prepared_network_keeps_its_weights_and_what_it_computes():
    plain = network()
    fast = copy.deepcopy(plain)
    prepare(fast)
    assert any(isinstance(module, RowInstanceNorm) for module in fast.modules())
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(fast.state_dict()[name], weight) for name, weight in plain.state_dict().items())
    torch.testing.assert_close(fast(image()), plain(image()), atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(fast.eval()(image()), plain.eval()(image()), atol=1e-5, rtol=1e-5)
    expected, found = gradients(plain, image()), gradients(fast, image())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", [FusedInstanceNorm, RowInstanceNorm])
@pytest.mark.parametrize("channels", [2, FEW + 1])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_a_norm_is_that_of_pytorch(kind, channels, dims, affine, last):
    plain = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](channels, affine=affine)
    for weight in plain.parameters():
        nn.init.normal_(weight)
    fast = copy.deepcopy(plain)
    fast.__class__ = kind
    given = image(channels, dims)
    if last:
        given = given.contiguous(memory_format={2: torch.channels_last, 3: LAST}[dims])
    torch.testing.assert_close(fast(given), plain(given))
    expected, found = gradients(plain, given), gradients(fast, given)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    assert fast(given.bfloat16()).dtype == torch.bfloat16
    constant = torch.full_like(given, 7.0)
    torch.testing.assert_close(fast(constant), plain(constant), atol=1e-2, rtol=0)


@pytest.mark.parametrize("channels", [2, FEW + 1])
def test_the_gradient_of_a_norm_in_bfloat16_is_that_in_float32(channels):
    plain = nn.InstanceNorm3d(channels, affine=True)
    fast = copy.deepcopy(plain)
    fast.__class__ = RowInstanceNorm
    given = image(channels).bfloat16().contiguous(memory_format=LAST)
    expected, found = gradients(plain, given.float()), gradients(fast, given)
    for name, gradient in expected.items():
        error = (found[name].float() - gradient).norm() / gradient.norm()
        assert error < 0.01, (name, error)


def test_features_stay_with_their_channels_last():
    fast = RowInstanceNorm(FEW + 1, affine=True)
    given = image(FEW + 1).contiguous(memory_format=LAST).requires_grad_()
    normal = fast(given)
    assert normal.is_contiguous(memory_format=LAST)
    normal.square().mean().backward()
    assert given.grad.is_contiguous(memory_format=LAST)


def test_a_norm_that_keeps_statistics_is_left_alone():
    kept = nn.Sequential(nn.InstanceNorm3d(2, track_running_stats=True), nn.BatchNorm3d(2))
    prepare(kept)
    assert [type(module) for module in kept] == [nn.InstanceNorm3d, nn.BatchNorm3d]
