import torch

from pipeline.networks.catalogue.pyramid_lstm import PyramidLSTM, Sweeps


def test_a_rotation_by_90_degrees_permutes_the_sweeps():
    """Turned in the plane of the slices, y goes where x was: with kernels turned alike, so is the output."""
    torch.manual_seed(0)
    sweeps, turned = Sweeps(1, 4), Sweeps(1, 4)
    old = list(sweeps.directions)
    turns = [
        *[(each, lambda kernel: kernel.rot90(1, (2, 3))) for each in old[:2]],
        *[(each, lambda kernel: kernel) for each in (old[5], old[4])],
        *[(each, lambda kernel: kernel.flip(3)) for each in old[2:4]],
    ]
    for sweep, (source, turn) in zip(turned.directions, turns, strict=True):
        weights = {
            name: turn(weight) if weight.ndim == 4 else weight for name, weight in source.state_dict().items()
        }
        sweep.load_state_dict(weights)
    volume = torch.randn(1, 1, 3, 5, 6)
    with torch.no_grad():
        expected = sweeps(volume).rot90(1, (3, 4))
        torch.testing.assert_close(turned(volume.rot90(1, (3, 4))), expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(sweeps(volume.rot90(1, (3, 4))), expected, atol=1e-4)


def test_six_directions_see_the_whole_volume():
    torch.manual_seed(0)
    network, image = PyramidLSTM(1, 2, width=0.25), torch.randn(1, 1, 4, 5, 6, requires_grad=True)
    assert all(len(layer.directions) == 6 for layer in network.layers if isinstance(layer, Sweeps))
    network(image)[0, 0, 2, 2, 2].backward()
    assert (image.grad != 0).all()


def test_each_direction_knows_what_it_has_swept():
    """A sweep's own output changes only from the changed plane on, seen in its direction."""
    torch.manual_seed(0)
    sweeps, volume = Sweeps(1, 3), torch.randn(1, 1, 5, 5, 5)
    for number, (axis, backwards) in enumerate((axis, back) for axis in range(3) for back in (False, True)):
        alone = Sweeps(1, 3)
        for index, sweep in enumerate(alone.directions):
            sweep.load_state_dict(sweeps.directions[index].state_dict())
            if index != number:
                for weight in sweep.parameters():
                    torch.nn.init.zeros_(weight)
        changed = volume.clone()
        changed.select(2 + axis, 2).add_(3)
        with torch.no_grad():
            moved = (alone(volume) - alone(changed)).abs().movedim(2 + axis, 0).flatten(1).amax(1)
        assert (moved > 0).tolist() == [index <= 2 if backwards else index >= 2 for index in range(5)]
