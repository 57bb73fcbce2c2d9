"""Sizes that fit the machine: a network that learns fast on few CPU cores, the full one on a GPU."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.params import TrainParams


@dataclass(frozen=True)
class Profile:
    """What `auto` stands for in the parameters of training."""

    name: Literal["small", "full"]
    batch_size: int
    steps: int
    learning_rate: float


SMALL = Profile("small", 2, 2400, 3e-3)
# More weights and larger batches: on 30 hippocampi that were watched, a third of the rate was better.
FULL = Profile("full", 8, 4000, 1e-3)


def choose_profile(params: TrainParams, planned_batch: int | None = None) -> Profile:
    """The profile the parameters name, or the one for this machine, their own values filled in.

    Args:
        params: of the training.
        planned_batch: patches of a step on a GPU, if the plan of the data says how many.
    """
    by_machine = FULL if torch.cuda.is_available() else SMALL
    base = {"auto": by_machine, "small": SMALL, "full": FULL}[params.profile]
    batch_size = planned_batch if planned_batch and base is FULL else base.batch_size
    return Profile(
        base.name,
        batch_size if params.batch_size == "auto" else params.batch_size,
        base.steps if params.steps == "auto" else params.steps,
        base.learning_rate if params.learning_rate == "auto" else params.learning_rate,
    )


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def reading_threads(where: torch.device) -> int:
    """Threads that read batches: on a CPU one, as the others learn; for a GPU all but two, at most eight."""
    return 1 if where.type == "cpu" else max(1, min(8, len(os.sched_getaffinity(0)) - 2))


def precision(params: TrainParams | None, where: torch.device) -> torch.dtype:
    """bfloat16 where the processor computes in it; emulated it would be slower than float32."""
    if params and params.precision != "auto":
        return torch.bfloat16 if params.precision == "bfloat16" else torch.float32
    if where.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
