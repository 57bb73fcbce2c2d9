"""What normalisation is computed over: batches that several processes share, and too few values."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import ParamsError
from pipeline.training.distributed import several
from pipeline.training.exchange import shared

ONE_VALUE = "Expected more than 1 "
"""How PyTorch begins its message where normalisation is given one value a channel."""


class WholeBatchNorm(_BatchNorm):
    """Normalises by mean and variance of the whole batch.

    PyTorch's SyncBatchNorm does so on GPUs alone.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, ...), any float type; computed in float32."""
        if not self.training:
            return functional.batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        wide = features.float()
        axes = (0, *range(2, wide.dim()))
        shape = (1, -1, *[1] * (wide.dim() - 2))
        count = shared(wide.new_tensor(wide.numel() / wide.shape[1]))
        mean = shared(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = shared(centred.square().sum(axes)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(features.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as PyTorch's own does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def share_statistics(network: nn.Module) -> None:
    """Have batch normalisation see the whole batch; weights keep their names."""
    if not several():
        return
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = WholeBatchNorm


@contextmanager
def told_if_too_small(patch: Sequence[int]) -> Iterator[None]:
    """Train with patches that a network may halve until a single voxel is left.

    Args:
        patch: its edges, (z, y, x) voxels.

    Raises:
        ParamsError: of a single value there is no deviation to normalise by.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        # The compiler's error for a GPU has it in its midst.
        if ONE_VALUE not in str(error):
            raise
        raise ParamsError(
            f"patches of {' x '.join(map(str, patch))} voxels are a single voxel in the deepest layer of the "
            "network, which its normalisation cannot do with",
            "raise patches.size, train.batch_size or train.micro_batch, or take a network with fewer levels "
            "(train.network)",
        ) from None
