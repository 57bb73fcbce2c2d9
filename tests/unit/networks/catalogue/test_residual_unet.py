import pytest
import torch

from pipeline.losses.supervised import supervised_loss
from pipeline.networks import build_network, plan_network
from pipeline.params import LossParams


def gradients(network, image, label, bfloat16):
    network.zero_grad()
    # What is read and was never written becomes seen.
    spoiled = [torch.full((1 << size,), float("nan")) for size in range(8, 22) for _ in range(3)]
    del spoiled
    with torch.autocast("cpu", torch.bfloat16, bfloat16):
        results = network(image)
    supervised_loss(results, network.form.outputs, label, LossParams()).backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


@pytest.mark.parametrize(
    ("patch", "spacing"),
    [
        ((40, 56, 40), (1.0, 1.0, 1.0)),
        ((8, 16, 16), (1.0, 1.0, 1.0)),
        ((16, 32, 32), (5.0, 1.0, 1.0)),
        ((5, 16, 24), (3.0, 1.0, 1.0)),
    ],
)
def test_its_gradients_in_bfloat16_are_those_in_float32(patch, spacing):
    torch.manual_seed(0)
    network = build_network(
        "residual_unet", 1, 3, plan_network("residual_unet", {}, patch, spacing, small=True)
    )
    assert network.bfloat16_on_cpu
    image, label = torch.randn(2, 1, *patch), torch.randint(3, (2, *patch))
    exact, rough = (gradients(network, image, label, bfloat16) for bfloat16 in (False, True))
    largest = max(gradient.norm() for gradient in exact.values())
    for name, gradient in exact.items():
        assert (rough[name] - gradient).norm() < 0.5 * (gradient.norm() + 0.01 * largest), name


def test_deep_supervision_is_an_option():
    network = build_network("residual_unet", 1, 3, {"channels": [4, 6, 8, 8], "deep_supervision": True})
    outputs = network(torch.randn(2, 1, 16, 16, 16))
    assert [output.weight for output in network.form.outputs] == [1.0, 0.5, 0.25]
    assert {tuple(output.shape) for output in outputs} == {(2, 3, 16, 16, 16)}
