"""Checkpoints that are whole or not there: written aside, flushed, renamed, checksummed; two are kept.

A checkpoint is one safetensors file whose name holds its step and the hash of its bytes. It lies in
a folder named by the key of all that the training is made of, so a training with other data,
parameters or code never goes on from it. Nothing is pickled.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from pipeline.atomic import FULL, remove_partial, sha256_file
from pipeline.errors import Unfinished
from pipeline.progress import console
from pipeline.training.distributed import first, several
from pipeline.training.exchange import bytes_from_first, from_first

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training after `step` steps."""

    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]
    """What is not a tensor, JSON-like: the learning curve so far."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint and remove all but the last two.

    Raises:
        Unfinished: it does not fit; those before it stay.
    """
    tensors = {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
    # Not `save_file`: killed while it writes, it leaves a file of a name of its own behind.
    content = save(tensors, metadata={"record": json.dumps(checkpoint.record)})
    temporary = folder / ".0.partial.checkpoint"
    with told_if_full(folder, len(content)):
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
        temporary.write_bytes(content)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        name = f"step_{checkpoint.step:08d}_{sha256_file(temporary)[:16]}.safetensors"
        os.replace(temporary, folder / name)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


@contextmanager
def told_if_full(folder: Path, needed: int) -> Iterator[None]:
    """Write `needed` bytes into `folder`.

    Raises:
        Unfinished: there is no room for them now; what was begun is removed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            # A write that fails is told without a file, and which disk that is only the place tells.
            error.filename = error.filename or str(folder)
            raise
        if folder.is_dir():
            remove_partial(folder)
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        raise Unfinished(
            f"a file of {needed:,} bytes could not be written into {folder}, where "
            f"{shutil.disk_usage(there).free:,} bytes are free ({error.strerror})",
            "make room there, or move HOUNSFIELD_HOME; given again, the training goes on from its last "
            "checkpoint",
        ) from None


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None; a damaged one is named and removed."""
    for path in _newest_first(folder):
        _, step, digest = path.stem.split("_")
        if not sha256_file(path).startswith(digest):
            _discard(path, "is damaged")
            continue
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                record = json.loads(file.metadata()["record"])
        except (SafetensorError, KeyError, ValueError):
            _discard(path, "cannot be read")
            continue
        return Checkpoint(int(step), tensors, record)
    return None


def common_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint from which all processes go on: that which the first one finds, sent to the others.

    So they agree, even where a folder that they share does not show each of them the same files yet.
    """
    found = load_checkpoint(folder) if first() else None
    if not several():
        return found
    head = from_first([found.step, found.record] if found else None)
    if head is None:
        return None
    tensors = load(bytes_from_first(save(found.tensors) if found else b""))
    return Checkpoint(head[0], tensors, head[1])


def _discard(path: Path, why: str) -> None:
    """Remove a checkpoint that is of no use: if it stayed, it would count as one of those kept."""
    console.print(f"checkpoint {path.name} {why}; going on from the one before")
    path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*.safetensors"), reverse=True)
