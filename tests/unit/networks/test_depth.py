import pytest
import torch
from torch import nn

from pipeline.networks import build_network, names, plan_network
from pipeline.networks.base import ANY_SIZE, Network
from pipeline.networks.depth import depths

PATCH = (8, 16, 16)


class TwoPaths(Network):
    """Layers named against their order; a long path and a short one; weights that go through an operation."""

    def __init__(self):
        super().__init__()
        self.form = ANY_SIZE
        self.last = nn.Conv3d(8, 2, 1)
        self.long = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 4, 1), nn.ReLU())
        self.short = nn.Conv3d(1, 4, 1)
        self.factor = nn.Parameter(torch.ones(8))
        self.unused = nn.Conv3d(1, 1, 1)

    def forward(self, image):
        both = torch.cat([self.long(image), self.short(image)], dim=1)
        return self.last(both * self.factor.exp()[None, :, None, None, None])


def test_a_weight_is_as_deep_as_the_way_to_its_first_use_is_long():
    found = depths(TwoPaths(), torch.randn(1, 1, 2, 3, 4))
    weights = [name for name in found if not name.endswith("bias")]
    assert weights == ["long.0.weight", "short.weight", "long.2.weight", "factor", "last.weight"]
    assert found["long.0.weight"] == found["short.weight"] == 1
    assert not any(name.startswith("unused") for name in found)


@pytest.mark.parametrize("name", names())
def test_the_first_weights_are_those_that_meet_the_image(name):
    options = plan_network(name, {}, PATCH, (1, 1, 1), small=True)
    network = build_network(name, 2, 3, options)
    image = torch.randn(1, 2, *network.form.input_size(network.form.fit(PATCH)))
    found = depths(network, image)
    first = network.get_parameter(next(iter(found)))
    # A stream may have one channel of the image, or three planes of both as its channels.
    assert first.shape[1] in {1, 2, 6}
    assert network.training
    assert all(weight.grad is None for weight in network.parameters())
    missing = {key for key, _ in network.named_parameters()} - set(found)
    assert (len(missing) > 0) <= (len(network.form.outputs) > 1)
