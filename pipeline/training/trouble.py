"""Trainings that have gone wrong are stopped: with what was wrong, where, and what to do about it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.atomic import atomic_path
from pipeline.errors import DataError, Unfinished
from pipeline.networks.base import Network
from pipeline.networks.weights import stored
from pipeline.training.checkpoint import told_if_full
from pipeline.training.data import PatchReader
from pipeline.training.distributed import rank, several
from pipeline.training.feed import Batch, feed
from pipeline.training.schedule import FOUND, Schedule
from pipeline.training.setting import Setting

FELL = 0.5
"""Share of the best Dice: a training has collapsed that is below it at `LOOKS` looks in a row."""
LOOKS = 2


@dataclass(frozen=True)
class Watchman:
    """Tells what is wrong with a training that cannot go on.

    Args:
        network: that learns.
        reader: of its patches.
        setting: of the training.
        schedule: of the training.
    """

    network: Network
    reader: PatchReader
    setting: Setting
    schedule: Schedule

    def losses(self, results: Sequence[Tensor], done: int) -> list[float]:
        """The losses of the steps up to `done`, of each of which the loss and the gradient's norm came out.

        Raises:
            DataError: one of them is no number, see `diagnosis`.
        """
        pairs: list[list[float]] = torch.stack(list(results)).tolist()
        for step, (loss, norm) in enumerate(pairs, start=done - len(pairs) + 1):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = "gradient" if math.isfinite(loss) else "loss"
                raise self.diagnosis(step, f"the {what} is {norm if what == 'gradient' else loss}")
        return [loss for loss, _ in pairs]

    def finite(self, tensors: dict[str, Tensor], done: int) -> dict[str, Tensor]:
        """The state after `done` steps, which may be saved.

        Raises:
            DataError: it holds what is no number: a training that went on from it would break again.
        """
        if broken := [name for name, tensor in tensors.items() if not _all_finite([tensor])]:
            raise self.diagnosis(done, f"{broken[0]} holds numbers that are not finite")
        return tensors

    def diagnosis(self, step: int, what: str) -> DataError:
        """Look at a step again, keep its batch beside the checkpoints, and say what was found.

        The batch is made anew, as it is a function of seed and step. A step without a finite gradient leaves
        the weights alone: on a CPU, where each loss is looked at, they are those that the step began with.

        Args:
            step: counted from 1.
            what: was wrong.
        """
        _, batch = next(feed(self.reader, replace(self.setting, steps=step), step - 1))
        cases = self.reader.cases(step - 1)
        image = _all_finite([batch.image])
        weights = _all_finite(stored(self.network).values())
        outputs = self._outputs_are_finite(batch)
        found = [
            f"{name} {'finite' if finite else 'NOT finite'}"
            for name, finite in (("image", image), ("weights", weights), ("outputs", outputs))
        ]
        reason = (
            f"{what} at step {step}, learning rate {self.schedule.rate(step - 1):.3g}, patches of "
            f"{', '.join(dict.fromkeys(cases))}; {', '.join(found)}; {self._kept(step, batch, cases)}"
        )
        return DataError(reason, _remedy(image, self.setting.precision))

    @torch.no_grad()
    def _outputs_are_finite(self, batch: Batch) -> bool:
        """Of what the network says of each patch; one by one, as memory may be short."""
        setting = self.setting
        for patch in batch.image[:, None]:
            with torch.autocast(setting.device.type, setting.precision, setting.precision != torch.float32):
                given = self.network(patch)
            if not _all_finite(given if isinstance(given, tuple) else [given]):
                return False
        return True

    def _kept(self, step: int, batch: Batch, cases: Sequence[str]) -> str:
        own = f"_of_process_{rank()}" if several() else ""
        path = self.setting.checkpoints / f"broken_step_{step}{own}.safetensors"
        try:
            save_batch(path, batch, cases, step)
        except Unfinished as error:
            return error.reason
        return f"its batch is in {path}"


def save_batch(path: Path, batch: Batch, cases: Sequence[str], step: int) -> None:
    """Write a batch as safetensors, with its cases and its step as metadata.

    Raises:
        Unfinished: there is no room for it.
    """
    named = {
        "image": batch.image,
        "label": batch.label,
        "unknown": batch.unknown,
        "boundary": batch.boundary,
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in named.items() if tensor is not None}
    content = save(tensors, metadata={"cases": json.dumps(list(cases)), "step": str(step)})
    with told_if_full(path.parent, len(content)), atomic_path(path) as temporary:
        temporary.write_bytes(content)


def check_collapse(curve: Sequence[Mapping[str, Any]]) -> None:
    """Look whether a network has lost what it could.

    Args:
        curve: rows of step and dice, of the watched fold.

    Raises:
        DataError: the last looks are below half of the best one.
    """
    known = [row for row in curve if not math.isnan(row["dice"])]
    if len(known) <= LOOKS:
        return
    best = max(known[:-LOOKS], key=lambda row: float(row["dice"]))
    last = known[-LOOKS:]
    if best["dice"] < FOUND or any(row["dice"] >= FELL * best["dice"] for row in last):
        return
    fell = " and ".join(f"{row['dice']:.3f} at step {row['step']}" for row in last)
    raise DataError(
        f"the training has collapsed: the Dice of the watched fold was {best['dice']:.3f} at step "
        f"{best['step']}, and {fell}",
        "lower train.learning_rate; checkpoints from before stay",
    )


def _remedy(image: bool, precision: torch.dtype) -> str:
    if not image:
        return "look at these cases (hounsfield locate names their files) and have them ingested anew"
    wider = "" if precision == torch.float32 else ", or set train.precision to float32"
    return f"lower train.learning_rate{wider}"


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
