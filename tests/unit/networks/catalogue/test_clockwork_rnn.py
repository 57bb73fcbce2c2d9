import pytest
import torch

from pipeline.networks.catalogue.clockwork_rnn import PERIODS, Clockwork, ClockworkRNN

BLOCK = 3


def built():
    torch.manual_seed(0)
    return Clockwork(4, BLOCK)


@pytest.mark.parametrize("number", range(10))
def test_only_the_due_blocks_change_at_a_step(number):
    clockwork = built()
    state, given = torch.randn(2, 4 * BLOCK, 5), torch.randn(2, 4 * BLOCK, 5)
    with torch.no_grad():
        after = clockwork.step(state, given, number)
    changed = (after != state).flatten(2).any(2).any(0).view(len(PERIODS), BLOCK)
    for period, block in zip(PERIODS, changed, strict=True):
        assert block.all() == block.any() == (number % period == 0)


def test_a_block_reads_only_those_that_tick_as_slowly_or_more_slowly():
    clockwork = built()
    given = torch.zeros(1, 4 * BLOCK, 1)
    for block in range(len(PERIODS)):
        state = torch.zeros(1, 4 * BLOCK, 1)
        state[:, block * BLOCK : (block + 1) * BLOCK] = 1
        with torch.no_grad():
            after = clockwork.step(state, given, 0).view(len(PERIODS), BLOCK)
        # At step 0 all are due: those that may not read this block become what nothing gives.
        assert [bool((each != 0).any()) for each in after] == [other <= block for other in range(4)]


def test_the_recurrence_stays_block_triangular_in_training():
    clockwork = built()
    optimizer = torch.optim.SGD(clockwork.parameters(), lr=1.0)
    before = clockwork.recurrent.detach().clone()
    clockwork(torch.randn(2, 4, 9, 5)).square().sum().backward()
    optimizer.step()
    moved = (clockwork.recurrent != before).float()
    assert moved.sum() > 0
    assert (moved * (1 - clockwork.allowed)).sum() == 0


def test_four_directions_see_the_whole_slice_and_no_other():
    torch.manual_seed(0)
    network, image = ClockworkRNN(1, 2, width=0.25), torch.randn(1, 1, 3, 6, 7, requires_grad=True)
    network(image)[0, 0, 1, 2, 3].backward()
    seen = (image.grad[0, 0] != 0).float()
    assert seen[[0, 2]].sum() == 0
    # Straight up, down, left and right, and what an embedding sees around each voxel there.
    assert seen[1, :, 3].all()
    assert seen[1, 2].all()
