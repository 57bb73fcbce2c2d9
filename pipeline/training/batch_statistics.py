"""Batch normalisation over batches of which several processes hold a part each."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.training.distributed import several
from pipeline.training.exchange import shared


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
