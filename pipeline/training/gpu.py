"""What makes steps fast on a GPU: fused kernels, and whole steps launched at once."""

import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from pipeline.progress import console

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function` as fused kernels for the shapes it is first called with, where there is a C compiler."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        console.print("no C compiler is installed: training goes on with PyTorch's own kernels, more slowly")
        return function
    return cast(Function, torch.compile(function, dynamic=False))


class Replayed:
    """A function of tensors of fixed shapes, recorded as a CUDA graph and replayed.

    Launching the kernels of a small step one by one takes the CPU longer than they take the GPU. The
    first calls run as they are: they compile, and choose among algorithms.

    Args:
        function: of tensors on the GPU; whatever else it reads or writes must stay where it is.
    """

    UNRECORDED = 3

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []
        self._result = torch.empty(0)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """What the function returns, of one tensor."""
        self._calls += 1
        if self._calls <= self.UNRECORDED:
            return self._aside(tensors)
        if self._graph is None:
            self._record(tensors)
        assert self._graph is not None
        for own, given in zip(self._given, tensors, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._result.clone()

    def _aside(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """Run on another stream than the default one, which cannot be recorded."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            result = self._function(*tensors)
        here.wait_stream(aside)
        return result

    def _record(self, tensors: tuple[Tensor, ...]) -> None:
        self._given = [tensor.clone() for tensor in tensors]
        graph = torch.cuda.CUDAGraph()
        # Threads that read batches ask for pinned memory meanwhile, which is none of the graph's business.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._result = self._function(*self._given)
        self._graph = graph
