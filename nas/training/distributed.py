"""Training over several processes: their number and rank, and batch norms over the images of all of
them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Processes:
    """This process and the others.

    The loop sums losses and gradients itself instead of wrapping the module: the parameters without
    a gradient differ from step to step, one step may pass the module several times, and sums over
    unequal shares of a batch stay exact.

    Attributes:
        index: this process's number, from 0.
        count: of all processes.
        device: where this process computes.
    """

    index: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Return whether this is the one that writes files and reports."""
        return self.index == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Return the tensor, in place its sum over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, module: torch.nn.Module) -> None:
        """Every gradient in place its sum over all processes; all must have the same ones."""
        gradients = (
            [p.grad for p in module.parameters() if p.grad is not None] if self.count > 1 else []
        )
        if gradients:
            flat = self.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            for gradient, part in zip(
                gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
            ):
                gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


def processes(device: str | None = None) -> Processes:
    """Join the processes that were launched together, or just this one.

    Args:
        device: cpu or cuda for one process; by default, and for several, a GPU where there is one.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    place = torch.device(device) if device and state.num_processes == 1 else state.device
    return Processes(state.process_index, state.num_processes, place)


def leave() -> None:
    """Say good-bye to the other processes, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class SyncedBatchNorm(TorchFunctionMode):
    """While this context is entered, batch norms in training mode take the statistics of all
    processes' images.

    torch's SyncBatchNorm is for GPUs only, and it would have to replace modules: the supernet makes
    those of its narrowed blocks on the fly. All processes must run the same operations in the same
    order.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs["training"]:
            return synced_batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def synced_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return `F.batch_norm` in training mode of (B, C, ...), over the images of all processes;
    their numbers may differ.

    The mean first and the variance around it after, so that nothing cancels out; sums are double,
    as torch's own are.
    """
    wide = x.float()
    dims = [dim for dim in range(x.dim()) if dim != 1]
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
