"""What is fast on a GPU says the same as what is plain; the parts that need a GPU run where there is one."""

import copy

import pytest
import torch
from torch import nn

from pipeline.networks import build_network
from pipeline.training.gpu import FusedInstanceNorm3d, Replayed, compiled, prepare

OPTIONS = {"channels": (4, 6), "strides": [(1, 1, 1), (2, 2, 2)]}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def network():
    torch.manual_seed(0)
    built = build_network("residual_unet", 2, 3, OPTIONS)
    for name, weight in built.named_parameters():
        # Fresh norms scale by one and shift by nothing, which would hide a mistake.
        if weight.ndim == 1:
            nn.init.uniform_(weight, 0.5, 1.5) if name.endswith("weight") else nn.init.normal_(weight)
    return built


def image():
    return torch.randn((2, 2, 6, 8, 10), generator=torch.Generator().manual_seed(1)) * 3 + 1


def gradients(built, given):
    built.zero_grad()
    built(given).square().mean().backward()
    return {name: weight.grad.clone() for name, weight in built.named_parameters()}


def test_a_prepared_network_keeps_its_weights_and_what_it_computes():
    plain = network()
    fast = copy.deepcopy(plain)
    prepare(fast)
    assert any(isinstance(module, FusedInstanceNorm3d) for module in fast.modules())
    assert fast.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(fast.state_dict()[name], weight) for name, weight in plain.state_dict().items())
    torch.testing.assert_close(fast(image()), plain(image()), atol=1e-5, rtol=1e-5)
    expected, found = gradients(plain, image()), gradients(fast, image())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("affine", [True, False])
def test_a_fused_norm_is_that_of_pytorch(affine):
    plain = nn.InstanceNorm3d(2, affine=affine)
    fast = FusedInstanceNorm3d(2, affine=affine)
    if affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
        fast.load_state_dict(plain.state_dict())
    torch.testing.assert_close(fast(image()), plain(image()))
    assert fast(image().bfloat16()).dtype == torch.bfloat16
    constant = torch.full((1, 2, 3, 3, 3), 7.0)
    torch.testing.assert_close(fast(constant), plain(constant), atol=1e-2, rtol=0)


def test_a_norm_that_keeps_statistics_is_left_alone():
    kept = nn.Sequential(nn.InstanceNorm3d(2, track_running_stats=True), nn.BatchNorm3d(2))
    prepare(kept)
    assert [type(module) for module in kept] == [nn.InstanceNorm3d, nn.BatchNorm3d]


def test_without_a_c_compiler_a_function_stays_as_it_is_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert compiled(network) is network
    assert "no C compiler" in capsys.readouterr().err


@needs_gpu
def test_a_recorded_function_does_at_every_call_what_the_function_does():
    state = torch.zeros(4, device="cuda")

    def add(amount):
        state.add_(amount)
        return state.sum()

    replayed, expected = Replayed(add), 0.0
    for call in range(8):
        amount = torch.full((4,), float(call), device="cuda")
        expected += 4 * call
        assert float(replayed(amount)) == expected
    assert replayed._graph is not None
