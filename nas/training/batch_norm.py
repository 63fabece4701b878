"""Batch norms over the images of all processes, on any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SyncedBatchNorm(TorchFunctionMode):
    """While this context is entered, batch norms in training mode take the statistics of all processes' images.

    torch's SyncBatchNorm is for GPUs only, and it would have to replace modules: the supernet makes those of its
    narrowed blocks on the fly. All processes must run the same operations in the same order.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs["training"]:
            return synced_batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def synced_batch_norm(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`F.batch_norm` in training mode of (B, C, ...), over the images of all processes; their numbers may differ.

    The mean first and the variance around it after, so that nothing cancels out; sums are double, as torch's own are.
    """
    wide, dims = x.float(), [dim for dim in range(x.dim()) if dim != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    count = _sum(wide.new_tensor(x.numel() // x.shape[1]))
    mean = (_sum(wide.sum(dims, dtype=torch.float64)) / count).float()
    centred = wide - mean.view(shape)
    var = (_sum(centred.square().sum(dims, dtype=torch.float64)) / count).float()
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * count / (count - 1), momentum)
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    normed = centred * scale.view(shape)
    normed = normed if bias is None else normed + bias.view(shape)
    return normed.to(x.dtype)


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, as each process has a share of the loss."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
