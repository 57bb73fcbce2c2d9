"""Recurrence over the slices of a volume."""

import torch
from torch import Tensor, nn


class ConvLSTM(nn.Module):
    """A convolutional LSTM along the slices (Shi et al., NIPS 2015), without peepholes.

    Args:
        before: feature maps of a slice.
        after: maps of its state.
        kernel: edge of the convolution of slice and state, odd.
    """

    def __init__(self, before: int, after: int, kernel: int = 3) -> None:
        super().__init__()
        self.given = nn.Conv2d(before, 4 * after, kernel, padding=kernel // 2)
        self.kept = nn.Conv2d(after, 4 * after, kernel, padding=kernel // 2, bias=False)

    def forward(self, volume: Tensor, backwards: bool = False) -> Tensor:
        """The state after each slice, (B, before, Z, Y, X) to (B, after, Z, Y, X), from the first slice on.

        Args:
            volume: the slices.
            backwards: from the last slice on.
        """
        slices = list(volume.unbind(2))
        order = range(len(slices))
        state = memory = torch.zeros_like(slices[0][:, :1]).expand(-1, self.kept.in_channels, -1, -1)
        states: list[Tensor] = [state] * len(slices)
        for index in reversed(order) if backwards else order:
            gates = (self.given(slices[index]) + self.kept(state)).chunk(4, dim=1)
            enter, keep, leave = (gate.sigmoid() for gate in gates[:3])
            memory = keep * memory + enter * gates[3].tanh()
            state = leave * memory.tanh()
            states[index] = state
        return torch.stack(states, dim=2)


class ConvGRU(nn.Module):
    """A convolutional gated recurrent unit along the slices (Ballas et al., ICLR 2016).

    Args:
        before: feature maps of a slice.
        after: maps of its state.
        kernel: edge of the convolutions, odd.
    """

    def __init__(self, before: int, after: int, kernel: int = 3) -> None:
        super().__init__()
        self.gates = nn.Conv2d(before + after, 2 * after, kernel, padding=kernel // 2)
        self.candidate = nn.Conv2d(before + after, after, kernel, padding=kernel // 2)

    def forward(self, volume: Tensor) -> Tensor:
        """The state after each slice, (B, before, Z, Y, X) to (B, after, Z, Y, X)."""
        slices = volume.unbind(2)
        state = torch.zeros_like(slices[0][:, :1]).expand(-1, self.candidate.out_channels, -1, -1)
        states = []
        for given in slices:
            renew, use = self.gates(torch.cat([given, state], dim=1)).sigmoid().chunk(2, dim=1)
            proposed = self.candidate(torch.cat([given, use * state], dim=1)).tanh()
            state = (1 - renew) * state + renew * proposed
            states.append(state)
        return torch.stack(states, dim=2)
