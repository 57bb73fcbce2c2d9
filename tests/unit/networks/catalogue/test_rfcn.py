import torch

from pipeline.losses.supervised import presence, supervised_loss
from pipeline.networks.catalogue.rfcn import RFCN
from pipeline.params import LossParams


def built(classes=3):
    torch.manual_seed(0)
    return RFCN(1, classes, width=0.25)


def test_one_pass_trains_segmentation_and_detection():
    network, image = built(), torch.randn(2, 1, 4, 16, 16)
    label = torch.randint(3, (2, 4, 16, 16))
    supervised_loss(network(image), network.form.outputs, label, LossParams()).backward()
    for part in (network.encoder, network.recurrence, network.decoder, network.detector):
        assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in part.parameters())


def test_detection_learns_which_slices_hold_a_class():
    network = built(2)
    label = torch.zeros(2, 6, 16, 16, dtype=torch.int64)
    label[0, 2:4, 4:12, 4:12] = 1
    label[1, 4:, 6:10, 6:10] = 1
    image = 2 * label[:, None].float() + 0.3 * torch.randn(2, 1, 6, 16, 16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(60):
        loss = supervised_loss(network(image), network.form.outputs, label, LossParams())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = (network(image)[1][:, 1] > 0).float()
    assert torch.equal(found, presence(label, 2)[:, 1])


def test_a_slice_knows_those_before_it():
    network, image = built().eval(), torch.randn(1, 1, 5, 16, 16)
    changed = image.clone()
    changed[:, :, 2] += 3
    states = []
    network.recurrence.register_forward_hook(lambda _unit, _given, made: states.append(made))
    with torch.no_grad():
        before, after = network(image), network(changed)
    moved = (states[0] - states[1]).abs().amax((0, 1, 3, 4))
    assert moved[:2].max() == 0
    assert moved[2:].min() > 0
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])
