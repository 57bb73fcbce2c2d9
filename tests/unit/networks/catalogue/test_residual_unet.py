import pytest
import torch

from pipeline.errors import ParamsError
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
    assert [tuple(output.shape) for output in outputs] == [(2, 3, edge, edge, edge) for edge in (16, 8, 4)]


def test_it_has_as_many_resolutions_as_the_patch_can_be_halved():
    def resolutions(patch, **options):
        return len(plan_network("residual_unet", options, patch, (1, 1, 1), small=False)["channels"])

    assert resolutions((128, 128, 128)) == 6
    assert resolutions((40, 56, 40)) == 4
    assert resolutions((8, 8, 8)) == 2
    # What is given stays.
    assert resolutions((8, 8, 8), channels=[4, 6, 8]) == 3


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
    "given",
    [
        {"strides": [[1, 1, 1], *[[2, 2, 2]] * 4]},
        {"strides": [[1, 1, 1], *[[1, 2, 2]] * 6]},
        {"kernels": [[1, 3, 3], [3, 3, 3]]},
        {"channels": [4, 6, 8]},
    ],
)
def test_each_of_its_options_can_be_given_alone(given, small):
    planned = plan_network("residual_unet", given, (128, 128, 128), (1, 1, 1), small=small)
    ((key, value),) = given.items()
    assert planned[key] == value
    assert {len(planned[name]) for name in ("channels", "strides", "kernels")} == {len(value)}
    build_network("residual_unet", 1, 2, planned)


def test_kernels_follow_the_strides_that_are_given():
    options = {"channels": [4, 6], "strides": [[1, 1, 1], [1, 4, 4]]}
    planned = plan_network("residual_unet", options, (16, 32, 32), (4.0, 1.0, 1.0), small=False)
    assert planned["kernels"] == [(1, 3, 3), (3, 3, 3)]


@pytest.mark.parametrize(
    ("kernels", "field"),
    [([], (41, 41, 41)), ([(1, 3, 3), (1, 3, 3), (3, 3, 3)], (11, 41, 41))],
)
def test_what_a_voxel_depends_on_lies_within_its_receptive_field(kernels, field):
    torch.manual_seed(0)
    options = {"channels": [2, 3, 4], "strides": [(1, 1, 1), (1, 2, 2), (1, 2, 2)], "kernels": kernels}
    network = build_network("residual_unet", 1, 2, options).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.InstanceNorm3d):
            # Its statistics are those of the whole image.
            module.forward = lambda features: features
    image = torch.randn(1, 1, 49, 64, 64, requires_grad=True)
    network(image)[0, 1, 24, 32, 32].backward()
    reached = image.grad[0, 0].nonzero()
    extent = (reached.max(0).values - reached.min(0).values + 1).tolist()
    assert all(edge <= most for edge, most in zip(extent, network.form.receptive_field, strict=True))
    assert network.form.receptive_field[0] == extent[0]


def test_an_even_kernel_is_refused():
    with pytest.raises(ParamsError, match="odd"):
        build_network("residual_unet", 1, 2, {"channels": [4], "kernels": [(2, 3, 3)]})


@pytest.mark.parametrize("strides", [[[2, 2, 2], [1, 1, 1]], [[1, 1, 1], [0, 1, 1]]])
def test_strides_that_would_lose_voxels_are_refused(strides):
    with pytest.raises(ParamsError, match="strides begin with 1, 1, 1, and none is below 1"):
        build_network("residual_unet", 1, 2, {"channels": [4, 6], "strides": strides})
