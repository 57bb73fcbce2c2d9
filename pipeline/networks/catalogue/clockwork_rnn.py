"""A spatial clockwork RNN: four sweeps over a slice, in which parts of the state tick at different rates.

Koutník, Greff, Gomez and Schmidhuber, "A Clockwork RNN", ICML 2014; spatial, in four directions: Xie,
Zhang, Sapkota and Yang, "Spatial Clockwork Recurrent Neural Network for Muscle Perimysium Segmentation",
MICCAI 2016.

Deviations: a step takes what two 3² convolutions make of a voxel's surroundings, where the paper takes a
patch as it is; all rows (or columns) of a slice go side by side; the four directions are joined by a 1²
layer.
"""

import torch
from torch import Tensor, nn

from pipeline.networks.base import Form, Network, as_slices, as_volume, maps

PERIODS = (1, 2, 4, 8)
"""Steps between two ticks of each block of the state."""
EMBEDDED, STATE = 32, 64
"""Feature maps of what a step takes, and of the state of a direction."""


class ClockworkRNN(Network):
    """Four clockwork sweeps over each slice; its receptive field in the slice is all of the patch.

    Args:
        in_channels: of the image.
        classes: of the logits, background included.
        width: of the feature maps, 1 as they are stated above.
    """

    def __init__(self, in_channels: int, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        embedded = maps(EMBEDDED, width)
        block = maps(STATE // len(PERIODS), width, least=2)
        self.embedding = nn.Sequential(
            nn.Conv2d(in_channels, embedded, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(embedded, embedded, 3, padding=1),
            nn.ReLU(),
        )
        # Down, up, to the right, to the left.
        self.sweeps = nn.ModuleList(Clockwork(embedded, block) for _ in range(4))
        joined = 4 * block * len(PERIODS)
        self.head = nn.Sequential(nn.Conv2d(joined, embedded, 1), nn.ReLU(), nn.Conv2d(embedded, classes, 1))
        self.form = Form(2, (1, 0, 0))

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, Z, Y, X) to logits (B, classes, Z, Y, X)."""
        given = self.embedding(as_slices(image))
        states = []
        for number, sweep in enumerate(self.sweeps):
            turned = given if number < 2 else given.transpose(2, 3)
            state = sweep(turned.flip(2)).flip(2) if number % 2 else sweep(turned)
            states.append(state if number < 2 else state.transpose(2, 3))
        return as_volume(self.head(torch.cat(states, dim=1)), image.shape[0])


class Clockwork(nn.Module):
    """A clockwork RNN down the rows of an image, every column by itself.

    Args:
        before: feature maps of a step.
        block: size of each block of the state; there is a block for each period.
    """

    due: Tensor
    allowed: Tensor

    def __init__(self, before: int, block: int) -> None:
        super().__init__()
        size = block * len(PERIODS)
        self.given = nn.Conv2d(before, size, 1)
        self.recurrent = nn.Parameter(torch.empty(size, size))
        nn.init.orthogonal_(self.recurrent)
        periods = torch.tensor(PERIODS).repeat_interleave(block)
        # A block reads those that tick as slowly as it does, or more slowly: the matrix is block-triangular.
        self.register_buffer("allowed", (periods[None] >= periods[:, None]).float(), persistent=False)
        ticks = torch.arange(max(PERIODS))[:, None] % periods[None] == 0
        self.register_buffer("due", ticks.float()[:, None, :, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """The state behind each row, (B, before, Y, X) to (B, state, Y, X)."""
        given = self.given(image)
        state = torch.zeros_like(given[:, :, 0])
        states = []
        for number, row in enumerate(given.unbind(2)):
            state = self.step(state, row, number)
            states.append(state)
        return torch.stack(states, dim=2)

    def step(self, state: Tensor, given: Tensor, number: int) -> Tensor:
        """The next state (B, state, X), in which the blocks that are due at this step are new.

        Args:
            state: (B, state, X).
            given: of the step, as wide as the state.
            number: of the step, from 0.
        """
        weight = (self.recurrent * self.allowed).to(given.dtype)
        new = torch.tanh(given + weight @ state.to(given.dtype))
        due = self.due[number % max(PERIODS)]
        return due * new + (1 - due) * state


NETWORK = ClockworkRNN
