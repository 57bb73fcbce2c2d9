"""When a training looks at the watched fold, how fast it learns at a step, and at which step it ends.

Where `train.patience` is given, both follow from the learning curve alone: the rate stays high until the
Dice of the watched fold stands still, and then falls to zero. Nothing has to be known of the length before
(warm-up, stable, decay: Hu et al. 2024; Hägele et al., NeurIPS 2024). The curve is in every checkpoint, so
a training that was stopped decides as one that was not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.params import TrainParams

GAIN = 0.005
"""Dice of the watched fold by which the best look has to be beaten to count as a gain."""
FOUND = 0.3
"""Dice from which on an organ counts as found: one that is not found yet is no plateau, and no collapse."""
DECAY_SHARE = 0.25
"""Of the steps done so far, over which the learning rate falls to zero in the end."""


@dataclass(frozen=True)
class Schedule:
    """The course of a training.

    Args:
        params: of the training.
        steps: it may take.
        curve: rows of step and dice, as the training adds them.
    """

    params: TrainParams
    steps: int
    curve: Sequence[Mapping[str, Any]]

    @property
    def every(self) -> int:
        """Steps between looks at the watched fold."""
        given = self.params.validate_every
        return max(1, self.steps // 10) if given == "auto" else given

    def is_look(self, done: int) -> bool:
        """Whether the watched fold is looked at after `done` steps."""
        return done % self.every == 0 or done == self.end

    @property
    def plateau(self) -> int | None:
        """Steps after which the watched fold had stood still for long enough; None: that has not been."""
        found = self._plateau()
        return found and found[0]

    def _plateau(self) -> tuple[int, float] | None:
        """The same, with the Dice that had to be beaten."""
        patience, best, looks = self.params.patience, -math.inf, 0
        if patience is None:
            return None
        for row in self.curve:
            step, dice = int(row["step"]), float(row["dice"])
            if dice > best + GAIN:
                best, looks = dice, 0
            elif not math.isnan(dice):
                looks += 1
            if looks >= patience and best >= FOUND and step >= self._warmup:
                return (step, best) if step + _decay(step) < self.steps else None
        return None

    @property
    def end(self) -> int:
        """Steps after which the training is over, as far as is known now."""
        return self.steps if self.plateau is None else self.plateau + _decay(self.plateau)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.params.patience is None:
            return learning_rate(self.params, step, self.steps)
        if step < self._warmup:
            return highest(self.params) * (step + 1) / self._warmup
        latest = max(self._warmup, int(self.steps / (1 + DECAY_SHARE)))
        falls = latest if self.plateau is None else self.plateau
        return highest(self.params) * half_cosine(max(0, step - falls) / max(1, self.end - falls))

    def why(self) -> str:
        """In words, why the training ends before its steps do; '' if it does not."""
        found = self._plateau()
        if found is None:
            return ""
        step, best = found
        return (
            f"at step {step}, {self.params.patience} looks in a row had gained no more than {GAIN:g} over a "
            f"Dice of {best:.3f}"
        )

    @property
    def _warmup(self) -> int:
        return max(1, round(self.params.warmup_share * self.steps))


def _decay(plateau: int) -> int:
    """Steps over which the learning rate falls after `plateau` steps."""
    return max(1, round(DECAY_SHARE * plateau))


def learning_rate(params: TrainParams, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
    warmup = max(1, round(params.warmup_share * steps))
    if step < warmup:
        return highest(params) * (step + 1) / warmup
    return highest(params) * half_cosine((step - warmup) / max(1, steps - warmup))


def half_cosine(share: float) -> float:
    """From 1 at a share of 0 down to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))


def highest(params: TrainParams) -> float:
    """The learning rate of `params`, in which the profile's has been filled in."""
    assert params.learning_rate != "auto"
    return params.learning_rate
