"""The processes that train together, as `torchrun` or `accelerate launch` started them, through Accelerate."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process and the others.

    The loop sums losses and gradients itself instead of wrapping the module: the parameters without a gradient differ
    from step to step, one step may pass the module several times, and sums over unequal shares of a batch stay exact.

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
        """Whether this is the one that writes files and reports."""
        return self.index == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """The tensor, in place its sum over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_gradients(self, module: torch.nn.Module) -> None:
        """Every gradient in place its sum over all processes; all must have the same ones."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None] if self.count > 1 else []
        if gradients:
            flat = self.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
            for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()


def processes(device: str | None = None) -> Processes:
    """Joins the processes that were launched together, or just this one.

    Args:
        device: cpu or cuda for one process; by default, and for several, a GPU where there is one.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    place = torch.device(device) if device and state.num_processes == 1 else state.device
    return Processes(state.process_index, state.num_processes, place)


def leave() -> None:
    """Says good-bye to the other processes, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
