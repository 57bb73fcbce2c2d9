import pytest
import torch
from rich.console import Console
from torch import nn

from pipeline.networks.base import ANY_SIZE, Network
from pipeline.networks.table import PATCH, Row, as_table, measure, rows


class Twice(Network):
    """Two convolutions of one voxel and three maps: what is kept for the way back can be counted."""

    form = ANY_SIZE

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 3, 1, bias=False), nn.Conv3d(3, 3, 1, bias=False)

    def forward(self, image):
        return self.second(self.first(image))


def test_a_network_is_measured():
    row = measure("twice", Twice())
    assert row.parameters == 3 + 9
    voxels = PATCH[0] * PATCH[1] * PATCH[2]
    # At least the image, what is between the convolutions, and the logits; the loss keeps some more.
    assert row.activation_mb > 4 * voxels * (1 + 3 + 3) / 1e6
    assert row.seconds > 0


@pytest.mark.parametrize("small", [True, False])
def test_rows_are_those_that_were_asked_for(monkeypatch, small):
    monkeypatch.setattr("pipeline.networks.table.PATCH", (8, 16, 16))
    (row,) = rows(["unet"], small=small)
    assert row.name == "unet"
    assert row.receptive_field == (117, 117, 117) if small else row.parameters > 19_000_000
    assert torch.is_grad_enabled()


def test_no_number_is_broken_on_a_narrow_terminal(capsys):
    row = Row("multiview_fcn", 3, 402_900_007, (516, 516, 516), (24, 24, 24), 3, 81_000.0, 103.28)
    Console(width=80, soft_wrap=True).print(as_table([row]))
    told = capsys.readouterr().out
    assert "402,900,007" in told
    assert "81,000 MB" in told
    assert "103.28 s" in told
