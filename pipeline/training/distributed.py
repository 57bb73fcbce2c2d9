"""A training over several processes: who is who, and how all end when one does.

torchrun starts the processes and tells each by its environment who it is. Without torchrun, and with one
process, there is no process group, and nothing here does anything.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from pipeline.errors import HounsfieldError, ParamsError
from pipeline.progress import console

TIMEOUT = timedelta(hours=1)
"""For which processes wait for each other: more than one takes that saves, compiles or predicts alone.

A process that is killed is noticed at once, as its connections close; this is for a network that is silent.
"""
ENDED, TOLD = "ended", "told"
"""Keys of torchrun's store: why the training ended, {} if it is done; that the first process has said it."""
PATIENCE = timedelta(seconds=10)
"""For which a process that failed waits until the first one has said so, before it says so itself."""


def several() -> bool:
    """Whether this is one of several processes of a training."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if several() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if several() else 1


def first() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


def part(batch_size: int) -> range:
    """The positions of a batch that this process learns from.

    Raises:
        ParamsError: there are fewer than processes.
    """
    if batch_size < world():
        raise ParamsError(
            f"train.batch_size is {batch_size}, but {world()} processes train",
            f"raise it to {world()} or more, or start fewer processes",
        )
    return range(batch_size * rank() // world(), batch_size * (rank() + 1) // world())


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that torchrun started; what happens inside is one training of them all.

    Whichever fails, all end at once with its exit code, and the first one says why. At the end all wait for
    the first, which has more to do.

    Raises:
        HounsfieldError: what was raised inside, or contact with another process was lost.
        ParamsError: there are more processes than GPUs.
    """
    # Other launchers set WORLD_SIZE, too, where this process may stand alone.
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    store, number, count = _met()
    console.quiet = number > 0
    start = _start(store, number, count)
    store = PrefixStore(start, store)
    ending = threading.Lock()
    watcher = threading.Thread(target=_end_with_others, args=(start, number, ending), daemon=True)
    watcher.start()
    try:
        # gloo for what lies in memory, NCCL for what lies on GPUs.
        backend = f"cpu:gloo,cuda:{dist.Backend.NCCL}" if _choose_gpu() else dist.Backend.GLOO
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
        yield
        if number == 0:
            store.compare_set(ENDED, "", "{}")
        watcher.join()
    except Exception as error:
        if not ending.acquire(blocking=False):
            watcher.join()
        _tell_others(error, store, number)
        # It has been told as well. Where a thread still waits when the interpreter ends, the process may be
        # aborted, and its exit code lost.
        watcher.join(PATIENCE.total_seconds())
        raise
    dist.destroy_process_group()


def _met() -> tuple[Store, int, int]:
    """A connection to torchrun's store, the number of this process, and of how many."""
    return cast(tuple[Store, int, int], next(rendezvous("env://", timeout=TIMEOUT)))


def _start(store: Store, number: int, count: int) -> str:
    """A name for this start of the processes, of which there are several if some are killed.

    torchrun's store keeps what earlier processes left there, and restarts are counted by each node for
    itself. So the first process welcomes every other one by a name that only that one knows.
    """
    own = uuid.uuid4().hex
    if number:
        store.set(f"hello {number}", own)
        store.wait([f"welcome {own}"], TIMEOUT)
        start: str = store.get(f"welcome {own}").decode()
        store.set(f"{start} {number}", "here")
        return start
    missing = set(range(1, count))
    while missing:
        for other in [other for other in missing if store.check([f"hello {other}"])]:
            store.set(f"welcome {store.get(f'hello {other}').decode()}", own)
        missing -= {other for other in missing if store.check([f"{own} {other}"])}
        time.sleep(0.05)
    return own


def _choose_gpu() -> bool:
    """Compute on the GPU of this process's number on its node; False if there are no GPUs."""
    if not torch.cuda.is_available():
        return False
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise ParamsError(
            f"{os.environ['LOCAL_WORLD_SIZE']} processes were started on a node with {there} GPUs",
            f"start torchrun with --nproc-per-node {there}, or less",
        )
    torch.cuda.set_device(local)
    return True


def _tell_others(error: Exception, store: Store, number: int) -> None:
    """Have all processes end for an error of this one, which the first of them tells."""
    known = isinstance(error, HounsfieldError)
    said = {
        "rank": number,
        "sentence": str(error) if known else f"process {number} ended with {type(error).__name__}: {error}",
        "exit_code": error.exit_code if isinstance(error, HounsfieldError) else 1,
    }
    try:
        store.compare_set(ENDED, "", json.dumps(said))
        if number == 0:
            store.set(TOLD, "1")
        else:
            store.wait([TOLD], PATIENCE)
    except RuntimeError:
        # The first process is no more, or whoever held the store.
        console.quiet = False


def _end_with_others(start: str, number: int, ending: threading.Lock) -> None:
    """End this process when another has failed, whatever it is doing.

    It may wait for the other or be busy with something else: neither would come to an end by itself.

    Args:
        start: name of this start of the processes.
        number: of this process.
        ending: held by who ends it, this thread or the other one.
    """
    try:
        # A connection of its own: one that waits cannot be asked for anything else.
        store = PrefixStore(start, _met()[0])
        store.wait([ENDED], timedelta(days=365))
        ended = json.loads(store.get(ENDED))
        if not ended or not ending.acquire(blocking=False):
            return
        if number == 0:
            _say(ended["sentence"])
            store.set(TOLD, "1")
    except RuntimeError:
        if not ending.acquire(blocking=False):
            return
        ended = {"exit_code": 1}
        _say("torchrun's first node cannot be reached any more: start the training again, it goes on")
    os._exit(ended["exit_code"])


def _say(sentence: str) -> None:
    console.print("[bold red]error[/]", end=" ")
    console.print(sentence, markup=False)
