"""What holds for every network of the catalogue."""

import re

import pytest
import torch
from torch import nn

from pipeline.errors import ParamsError
from pipeline.inference.sliding_window import probabilities
from pipeline.losses.supervised import supervised_loss
from pipeline.networks import build_network, check, names, options_of, plan_network
from pipeline.params import LossParams, NetworkParams

SPACING = (1.0, 1.0, 1.0)
NAMES = names()
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


def built(name, patch=(8, 16, 16), in_channels=1, classes=3):
    torch.manual_seed(0)
    return build_network(name, in_channels, classes, plan_network(name, {}, patch, SPACING, small=True))


def sizes(network, patch=(8, 16, 16)):
    """Of the smallest output that holds a patch, and of the input that it takes."""
    output = network.form.fit(patch)
    return output, network.form.input_size(output)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("patch", [(8, 16, 16), (5, 17, 9)])
def test_outputs_are_as_the_form_says(name, patch):
    network = built(name, in_channels=2, classes=4)
    output, given = sizes(network, patch)
    assert all(edge >= wanted for edge, wanted in zip(output, patch, strict=True))
    image = torch.randn(2, 2, *given)
    results = network(image)
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(network.form.outputs)
    assert network.form.outputs[0].target == "label"
    assert results[0].shape == (2, 4, *output)
    for result, said in zip(results, network.form.outputs, strict=True):
        # In deep supervision an output may be coarser.
        size = result.shape[2:]
        assert all(edge <= full for edge, full in zip(size, output, strict=True))
        maps = {"label": (4, *size), "contour": (2, *output), "presence": (4, output[0], 1, 1)}
        assert result.shape == (2, *maps[said.target])
    with torch.no_grad():
        assert network.eval()(image).shape == (2, 4, *output)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns(name):
    network = built(name)
    output, given = sizes(network)
    label = torch.randint(3, (2, *output), generator=torch.Generator().manual_seed(0))
    results = network(torch.randn(2, 1, *given))
    supervised_loss(results, network.form.outputs, label, LossParams()).backward()
    for weight_name, weight in network.named_parameters():
        assert weight.grad is not None, weight_name
        assert torch.isfinite(weight.grad).all(), weight_name
    learning = [weight.grad.abs().max() > 0 for weight in network.parameters()]
    # A bias before a normalisation, or a unit that rests at the start, may have no say.
    assert sum(learning) > 0.8 * len(learning)


@pytest.mark.parametrize("name", NAMES)
def test_the_receptive_field_is_as_large_as_the_form_says(name):
    """By the gradient of the voxel in the middle, without normalisation, which looks everywhere."""
    network = built(name).eval()
    for module in network.modules():
        for child, layer in module.named_children():
            if isinstance(layer, NORMS):
                setattr(module, child, nn.Identity())
    patch = [edge + 2 if edge else 8 for edge in network.form.receptive_field]
    output, given = sizes(network, [min(edge, 72) for edge in patch])
    image = torch.zeros(1, 1, *given, requires_grad=True)
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_().add_(1e-3)
    middle = [edge // 2 for edge in output]
    network(image + 1)[(0, slice(None), *middle)].logsumexp(0).backward()
    seen = image.grad[0, 0].nonzero()
    for axis, edge in enumerate(network.form.receptive_field):
        # 0 says: as far as the patch goes.
        span = int(seen[:, axis].max() - seen[:, axis].min() + 1) if len(seen) else 0
        assert span <= (edge or given[axis])


COMPLETE = ("clockwork_rnn", "dcan", "fcn", "fcrn", "patch_cnn", "triplanar", "triplanar_deep")
"""Along one axis or all, a window shows what their output depends on."""


def test_it_is_known_whose_windows_need_no_overlap():
    assert tuple(name for name in NAMES if any(built(name).form.complete)) == COMPLETE


@pytest.mark.parametrize("name", COMPLETE)
def test_along_a_complete_axis_it_does_not_matter_where_a_window_begins(name):
    network = built(name)
    with torch.no_grad():
        # In evaluation, normalisation goes by what a batch was like.
        network(torch.randn(2, 1, *sizes(network)[1]))
    network.eval()
    whole = network.form.fit((11, 20, 20))
    image = torch.randn(1, *whole)
    window = [7 if free else edge for edge, free in zip(whole, network.form.complete, strict=True)]
    found, expected = (probabilities(network, image, size, 3, torch.float32) for size in (window, whole))
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_small_batch_can_be_learned_by_heart(name):
    network = built(name)
    output, given = sizes(network)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn((2, 1, 4, 4, 4), generator=generator)
    image = nn.functional.interpolate(coarse, given, mode="trilinear")
    inside = tuple(slice(side, side + edge) for side, edge in zip(network.form.margin, output, strict=True))
    seen = image[(slice(None), 0, *inside)]
    label = (seen > 0.2).long() + (seen > 0.9).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(150):
        loss = supervised_loss(network(image), network.form.outputs, label, LossParams())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        results = network(image)
        first = results[0] if isinstance(results, tuple) else results
        if (first.argmax(1) == label).float().mean() > 0.95:
            break
    assert (first.argmax(1) == label).float().mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights(name):
    one, same = built(name), built(name)
    for (key, weight), other in zip(one.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(weight, other), key


@pytest.mark.parametrize("name", NAMES)
def test_its_options_can_be_read_off_its_file(name):
    assert set(plan_network(name, {}, (8, 16, 16), SPACING, small=True)) <= set(options_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_is_planned_with_is_of_the_types_of_its_options(name):
    for small in (True, False):
        check(name, plan_network(name, {}, (16, 32, 32), SPACING, small=small))


def test_the_default_of_the_parameters_is_a_network():
    assert NetworkParams().name in NAMES


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"no network 'residual_net' \(did you mean 'residual_unet'"):
        check("residual_net", {})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("patch_cnn", {"dims": 4}, "dims of the network 'patch_cnn' is 4: it should be 2 or 3"),
        (
            "patch_cnn",
            {"width": "broad"},
            "width of the network 'patch_cnn' is 'broad': it should be a valid",
        ),
        ("residual_unet", {"channels": [8, "x"]}, "element 1: it should be a valid integer"),
        ("residual_unet", {"channels": 8}, "channels of the network 'residual_unet' is 8: it should be"),
    ],
)
def test_a_value_of_another_type_is_refused_before_it_is_built(name, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check(name, options)
    check(name, dict.fromkeys(options, "auto"))


def test_an_unknown_option_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"has no 'chanels' \(did you mean 'channels'"):
        NetworkParams(chanels=[8])


def test_an_option_that_cannot_be_is_refused():
    with pytest.raises(ParamsError, match=r"cannot be built with channels=\[\]"):
        build_network("residual_unet", 1, 2, {"channels": []})


@pytest.mark.parametrize("width", [0, -1.0, float("inf")])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(ParamsError, match=r"width is .*, so it is above 0"):
        build_network("vnet", 1, 2, {"width": width})


@pytest.mark.parametrize(
    ("name", "option"), [("unet", "dropout"), ("deepmedic", "dropout"), ("monai:SegResNet", "dropout_prob")]
)
def test_a_dropout_that_drops_all_is_refused(name, option):
    with pytest.raises(ParamsError, match="a dropout of 1 leaves nothing to learn from"):
        build_network(name, 1, 2, {option: 1.0})


def test_options_of_which_no_plan_can_be_made_are_refused():
    with pytest.raises(ParamsError, match="'residual_unet' cannot be built with channels=8"):
        plan_network("residual_unet", {"channels": 8}, (8, 16, 16), SPACING, small=True)


def test_any_network_of_monai_is_one_of_ours():
    name, options = "monai:SegResNet", {"init_filters": 8}
    planned = plan_network(name, options, (8, 16, 16), SPACING, small=True)
    network = build_network(name, 2, 3, planned)
    assert network.form.multiple == (8, 8, 8)
    assert network(torch.randn(1, 2, 8, 16, 16)).shape == (1, 3, 8, 16, 16)


def test_what_monai_does_not_have_is_refused():
    with pytest.raises(ParamsError, match="MONAI has no network 'Nonsense'"):
        build_network("monai:Nonsense", 1, 2, {})


def test_a_class_of_monai_is_looked_for_before_any_stage_runs_and_without_loading_monai():
    with pytest.raises(
        ValueError, match=r"MONAI has no network 'SegResnet' \(did you mean 'SegResNet'\?\)"
    ) as refused:
        check("monai:SegResnet", {})
    assert "resnet50" not in str(refused.value)
    check("monai:SegResNet", {})
    check("monai:Unet", {})


def test_what_the_data_say_is_no_option_of_a_network_of_monai():
    with pytest.raises(ParamsError, match="out_channels is as the data are: leave it out"):
        build_network("monai:SegResNet", 1, 3, {"init_filters": 8, "out_channels": 7})
    with pytest.raises(ParamsError, match="spatial_dims is 1, not 2 or 3"):
        build_network("monai:SegResNet", 1, 3, {"init_filters": 8, "spatial_dims": 1})


def test_a_network_of_monai_may_be_told_what_the_data_say():
    network = build_network("monai:SegResNet", 1, 3, {"init_filters": 8, "out_channels": 3})
    assert network(torch.randn(1, 1, 8, 16, 16)).shape == (1, 3, 8, 16, 16)


def test_a_network_of_monai_that_labels_no_voxels_is_refused():
    small = {"init_features": 2, "growth_rate": 2, "block_config": [1], "bn_size": 1}
    with pytest.raises(ParamsError, match="does not give 3 logits a voxel back"):
        build_network("monai:DenseNet", 1, 3, small)


class Sized(nn.Module):
    """As MONAI's transformers are: for one size alone."""

    def __init__(self, in_channels, out_channels, img_size):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 1, *img_size))
        self.head = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, image):
        return self.head(image + self.place)


def test_a_network_of_monai_that_is_built_for_a_size_is_given_the_patch(monkeypatch):
    from monai.networks import nets

    monkeypatch.setattr(nets, "Sized", Sized, raising=False)
    network = build_network(
        "monai:Sized", 1, 3, plan_network("monai:Sized", {}, (8, 16, 16), SPACING, small=True)
    )
    assert network.form.fit((8, 16, 16)) == (8, 16, 16)
    assert network(torch.randn(1, 1, 8, 16, 16)).shape == (1, 3, 8, 16, 16)


def test_a_network_of_monai_that_needs_another_package_says_which(monkeypatch):
    from monai.networks import nets

    class Needy(nn.Module):
        def __init__(self, in_channels, out_channels):
            raise ImportError("from einops import rearrange (No module named 'einops').\n\nFor details")

    monkeypatch.setattr(nets, "Needy", Needy, raising=False)
    with pytest.raises(ParamsError, match=r"with no options: .*No module named 'einops'\)\.$"):
        build_network("monai:Needy", 1, 2, {})
