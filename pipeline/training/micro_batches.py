"""Steps that do not fit into memory: the same step, computed in parts.

The network sees a part of the batch at a time and keeps its outputs alone; the loss is taken of the outputs
of the whole batch, whatever it is (Dice over the batch, the hardest voxels of all); on the way back each
part is computed anew (Chen et al. 2016; Gao et al. 2021). The gradient is that of the whole batch but for
rounding, for the time of one more forward pass. What differs: batch normalisation normalises by a part,
and dropout draws part by part.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.errors import ResourceError
from pipeline.params import TrainParams
from pipeline.progress import console
from pipeline.training.distributed import rank, several

SIGNS = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "CUDA out of memory",
    "std::bad_alloc",
    # oneDNN's word for it: it finds no room for a kernel that it compiles.
    "could not create a primitive",
)
"""In the message of a RuntimeError, by which it means that there is no memory."""


REMEDY = "lower patches.size, or train.batch_size, or take a network with fewer maps (train.network)"


class DoesNotFit(Exception):
    """There is not enough memory for the gradient of a step; nothing has been learned from it."""


class MicroBatches:
    """As many patches at once as there is memory for.

    Args:
        network: that learns.
        batch: patches of a step.
        params: of the training.
    """

    def __init__(self, network: nn.Module, batch: int, params: TrainParams) -> None:
        self._network, self._batch = network, batch
        self.size = batch if params.micro_batch == "auto" else min(params.micro_batch, batch)
        # What normalisation counts: a pass that broke off, or that is made a second time, is not counted.
        self._counted = list(network.buffers())
        self._before = [counted.clone() for counted in self._counted]

    @property
    def whole(self) -> bool:
        """Whether a step is computed at once."""
        return self.size == self._batch

    def outputs(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the network returns of a batch (B, C, Z, Y, X), of which nothing but this is kept."""
        given = [
            checkpoint(
                self._network,
                part,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), self._uncounted()),
            )
            for part in image.split(self.size)  # type: ignore[no-untyped-call]
        ]
        if isinstance(given[0], tuple):
            return tuple(torch.cat(parts) for parts in zip(*given, strict=True))
        return torch.cat(given)

    def fitting(self, step: Callable[[], Tensor]) -> Tensor:
        """What `step` returns; where it does not fit, it is begun again with half the patches at once.

        Raises:
            ResourceError: not even one patch fits.
        """
        while True:
            _copy(self._counted, self._before)
            try:
                return step()
            except DoesNotFit as error:
                # No more of it than this: its traceback holds what the step had computed.
                said = str(error)
            _copy(self._before, self._counted)
            self._halve(said)

    def _halve(self, said: str) -> None:
        if self.size == 1:
            raise no_memory(f"one patch: {said}")
        if several():
            # The others have added up their part of the step already.
            raise no_memory(
                f"{self.size} patches of process {rank()}: {said}", "set train.micro_batch to fewer patches"
            )
        self.size = -(-self.size // 2)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        console.print(
            f"a step of {self._batch} patches does not fit into memory: it is computed {self.size} at a time",
            markup=False,
        )

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        counted = [each.clone() for each in self._counted]
        try:
            yield
        finally:
            _copy(counted, self._counted)


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)


@contextmanager
def gradient() -> Iterator[None]:
    """Compute a gradient.

    Raises:
        DoesNotFit: memory does not suffice.
    """
    with _if_no_memory(DoesNotFit):
        yield


@contextmanager
def told_if_no_memory() -> Iterator[None]:
    """Do what needs memory beside the gradient: read and augment a batch, look at whole volumes.

    Raises:
        ResourceError: it does not suffice.
    """
    with _if_no_memory(no_memory):
        yield


@contextmanager
def _if_no_memory(told: Callable[[str], Exception]) -> Iterator[None]:
    """Raise what `told` makes of the error that there is no memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise told(str(error).partition("\n")[0]) from None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that there is no memory: a GPU's or a CPU's."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
            sign in str(error) for sign in SIGNS
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def no_memory(what: str, remedy: str = REMEDY) -> ResourceError:
    """The error with which a training ends that does not fit into memory."""
    return ResourceError(f"the training does not fit into memory ({what})", remedy)
