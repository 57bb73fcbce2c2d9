"""What is fast on a GPU says the same as what is plain; the parts that need a GPU run where there is one."""

import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.training.batch_statistics import told_if_too_small
from pipeline.training.gpu import Replayed, compiled

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_without_a_c_compiler_a_function_stays_as_it_is_and_that_is_said(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert compiled(abs) is abs
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


def test_patches_that_are_too_small_are_told_whatever_the_compiler_makes_of_the_error():
    normalise = torch.compile(torch.nn.InstanceNorm3d(2), backend="eager")
    with pytest.raises(ParamsError, match="patches of 8 x 8 x 8 voxels"), told_if_too_small((8, 8, 8)):
        normalise(torch.ones(1, 2, 1, 1, 1))
