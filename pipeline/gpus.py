"""The NVIDIA cards of this machine, as nvidia-smi names them: asking PyTorch takes seconds to import it."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.programs import ask

USUAL_GB = 8
"""What a step is planned for where there is as much: nnU-Net's default. More makes every step longer."""
FREE_SHARE = 0.9
"""Of a card's memory; the rest is the driver's and what else shows on it."""
LEAST_GB = 2


@dataclass(frozen=True)
class Card:
    """An NVIDIA card."""

    name: str
    mib: int | None
    """Of memory; None: it does not say."""


def cards() -> list[Card]:
    """Those that nvidia-smi knows; none where there is no nvidia-smi."""
    answer = ask("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    found = []
    for line in (answer or "").splitlines():
        name, _, memory = line.rpartition(", ")
        found.append(Card(name, int(memory) if memory.isdigit() else None))
    return found


def torch_has_cuda() -> bool:
    """Whether the installed PyTorch computes on a GPU, as the file says that it keeps its build in."""
    package = importlib.util.find_spec("torch")
    if package is None or package.origin is None:
        return False
    version = Path(package.origin).parent / "version.py"
    return bool(re.search(r"^cuda\b[^=]*= *['\"]", version.read_text(encoding="utf-8"), re.MULTILINE))


def in_use() -> str | None:
    """The card that PyTorch computes on; None where it computes on the processor."""
    if not torch_has_cuda():
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def memory_to_plan_for() -> int | None:
    """10^9 bytes that a step of training may take on every card here; None: there is none to be used."""
    if not torch_has_cuda():
        return None
    sizes = [card.mib for card in cards() if card.mib is not None]
    if not sizes:
        return None
    memory = int(FREE_SHARE * min(sizes) * 2**20 / 1e9)
    return min(USUAL_GB, memory) if memory >= LEAST_GB else None
