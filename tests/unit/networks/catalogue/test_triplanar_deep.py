import torch
from torch import nn

from pipeline.networks.catalogue.triplanar_deep import TriplanarDeep


def test_it_has_25_convolutions_of_three_by_three():
    network = TriplanarDeep(1, 4)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(3, 3)] * 25
    assert network.form.receptive_field == (51, 51, 51)


def test_all_planes_and_classes_share_their_weights():
    torch.manual_seed(0)
    network = TriplanarDeep(1, 3, width=0.125).eval()
    # Turned so that planes change places, an image whose planes are alike gives the same features.
    image = torch.randn(1, 1, *network.form.input_size((1, 1, 1)))
    image = sum(image.permute(0, 1, *order) for order in ((2, 3, 4), (3, 4, 2), (4, 2, 3)))
    given = []
    network.shared.register_forward_hook(lambda _l, _g, made: given.append(made))
    with torch.no_grad():
        network(image)
    assert len(given) == 3
    few = sum(weight.numel() for weight in network.head[-1].parameters())
    more = sum(weight.numel() for weight in TriplanarDeep(1, 6, width=0.125).parameters())
    own = sum(weight.numel() for weight in network.parameters())
    # Three more classes cost a row each of the last layer, nothing else.
    assert more - own == few
