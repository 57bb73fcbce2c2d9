"""Features stored channels-last, where convolutions are fastest, and instance normalisation that suits it.

cuDNN asks for it on a GPU; with oneDNN, on a CPU, a step of a network in 3D takes 0.5 to 0.95 of the time
that it takes with one channel after the other (`benchmarks/channels_last.py`). PyTorch's instance
normalisation does not know this layout: it copies to another one and back.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm

LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}
"""By the axes of a convolution's weights, and of features."""
FEW = 16
"""Channels; with fewer, kernels that run along them do so little that copies to another layout pay."""


def prepare(network: nn.Module) -> None:
    """Bring a network into the form that is fast on its device; its weights keep their names and values."""
    on_gpu = any(weight.is_cuda for weight in network.parameters())
    for weight in network.parameters():
        layout = LAYOUT.get(weight.ndim)
        # In two dimensions a CPU gains little, and some layers lose much.
        if layout is not None and (on_gpu or weight.ndim == 5):
            weight.data = weight.data.contiguous(memory_format=layout)
    for module in network.modules():
        if type(module) in (nn.InstanceNorm2d, nn.InstanceNorm3d) and not module.track_running_stats:
            module.__class__ = FusedInstanceNorm if on_gpu else RowInstanceNorm


class FusedInstanceNorm(_InstanceNorm):
    """Instance normalisation written in sums and products, which a compiler fuses with what is around it."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, ...), any float type; computed in float32."""
        wide = features.float()
        axes = tuple(range(2, wide.ndim))
        mean = wide.mean(axes, keepdim=True)
        variance = (wide.square().mean(axes, keepdim=True) - mean.square()).clamp_min(0)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            each = (-1, *[1] * len(axes))
            scale = scale * self.weight.view(each)
            shift = self.bias.view(each) - mean * scale
        else:
            shift = -mean * scale
        return (wide * scale + shift).to(features.dtype)


class RowInstanceNorm(_InstanceNorm):
    """Instance normalisation with PyTorch's fastest kernels for a CPU."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, ...), any float type; computed in float32."""
        layout = LAYOUT[features.ndim]
        if not features.is_contiguous(memory_format=layout):
            return self._grouped(features)
        if features.shape[1] < FEW:
            return self._grouped(features.contiguous()).contiguous(memory_format=layout)
        if not (torch.is_grad_enabled() and features.requires_grad):
            return self._grouped(features)
        normal: Tensor = _RowNorm.apply(features, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return normal

    def _grouped(self, features: Tensor) -> Tensor:
        """As group normalisation of groups of one channel, which computes the same in less time."""
        return functional.group_norm(features, features.shape[1], self.weight, self.bias, self.eps)


class _RowNorm(torch.autograd.Function):
    """Group normalisation forward, and backward a batch normalisation of each element of the batch.

    Where channels lie last, the gradient of group normalisation takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        batch, channels = features.shape[:2]
        voxels = features[0, 0].numel()
        normal, mean, scale = torch.native_group_norm(
            features, weight, bias, batch, channels, voxels, channels, eps
        )
        ctx.save_for_backward(features, weight, mean.view(batch, channels), scale.view(batch, channels))
        ctx.eps = eps
        return normal

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        features, weight, mean, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=LAYOUT[features.ndim])
        result = torch.empty_like(features)
        sums = []
        for number in range(len(features)):
            given, seen = (tensor[number : number + 1] for tensor in (gradient, features))
            found, *of_weights = torch.ops.aten.native_batch_norm_backward(
                given, seen, weight, None, None, mean[number], scale[number], True, ctx.eps, [True] * 3
            )
            result[number] = found[0]
            sums.append(of_weights)
        if weight is None:
            return result, None, None, None
        of_weight, of_bias = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
        return result, of_weight, of_bias, None
