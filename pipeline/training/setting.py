"""All a training needs apart from its network and its patches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.params import AugmentParams, TrainParams


@dataclass(frozen=True)
class Setting:
    """All a training needs apart from its network and its patches."""

    params: TrainParams
    augment: AugmentParams
    steps: int
    spacing: tuple[float, ...]
    normalisation: list[dict[str, Any]]
    device: torch.device
    precision: torch.dtype
    checkpoints: Path
    """Folder of this very training's checkpoints."""

    @property
    def on_gpu(self) -> bool:
        """Whether steps are launched by the CPU and computed elsewhere."""
        return self.device.type == "cuda"
