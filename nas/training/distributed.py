"""Training over several processes: their number and rank, sums, gradients, and batch norms.

`nas.training.loop` uses it in every training, `nas.supernet.sensitivity` in scoring; with one
process nothing is exchanged.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nas.errors import Elsewhere, NasError

PATIENCE = timedelta(days=365)
"""Time that processes wait for one another between pieces of work that take unequally long.

The collectives of NCCL give up after ten minutes, those of gloo after thirty.
"""


@dataclass(frozen=True)
class Processes:
    """This process and its place among the others.

    The loop sums losses and gradients itself instead of wrapping the module in
    DistributedDataParallel. In a supernet the parameters without a gradient differ from step to
    step, and one step may pass the module several times. Sums over unequal shares of a batch stay
    exact.

    Attributes:
        index: number of this process, from 0.
        count: number of all processes.
        device: device of this process.
    """

    index: int
    count: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Return whether this process is the one that writes files and reports."""
        return self.index == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor, in place, by its sum over all processes; return it."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes have reached this call, however long the slowest one takes."""
        self.share(torch.zeros(1))

    def share(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes, however long the slowest one takes.

        Where all processes but one have zeros, every process gets that one's values, unchanged.

        Args:
            tensor: on the CPU; it is replaced in place.

        Raises:
            NasError: when another process has ended.
        """
        if self.count > 1:
            try:
                dist.all_reduce(tensor, group=_patient())
            except RuntimeError as error:
                raise NasError(
                    f"process {self.index} of {self.count}: another process of this launch ended."
                    " Fix: start the same command again"
                ) from error
        return tensor

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Context that ends in all processes alike: where the block fails in one, it fails in all.

        No process goes on to wait for one that has stopped. The first process that failed raises
        its error, the others `Elsewhere`, which nobody prints. The block must not wait for other
        processes itself.
        """
        if self.count == 1:
            yield
            return
        # (processes,): the exit code of each, 0 where the block succeeded.
        codes = torch.zeros(self.count, dtype=torch.int64)
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            codes[self.index] = getattr(error, "exit_code", NasError.exit_code)
        failed = [index for index, code in enumerate(self.share(codes).tolist()) if code]
        if failure is not None and self.index == failed[0]:
            raise failure
        if failed:
            raise Elsewhere(int(codes[failed[0]]))


ALONE = Processes(0, 1, torch.device("cpu"))
"""One process that shares its work with no other."""


def processes(device: str | None = None) -> Processes:
    """Join the processes that were launched together; without a launcher, this one alone.

    Args:
        device: cpu or cuda for one process; by default, and for several, a GPU where there is one.
    """
    from accelerate import PartialState

    # `accelerate launch --cpu`, which its `PartialState` leaves to the caller.
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    on_cpu = device == "cpu" or not torch.cuda.is_available() or (on_cpu and device is None)
    state = PartialState(cpu=on_cpu)
    place = torch.device(device) if device and state.num_processes == 1 else state.device
    return Processes(state.process_index, state.num_processes, place)


def leave() -> None:
    """Leave the group of processes, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _patient.cache_clear()


@lru_cache(maxsize=1)
def _patient() -> Any:
    """Return a group of all processes, on the CPU, whose collectives wait for `PATIENCE`.

    All processes must call it together.
    """
    return dist.new_group(backend="gloo", timeout=PATIENCE)


BUCKET_BYTES = 8 * 2**20
"""Size of the gradients that are summed at once.

A sum per tensor would cost its latency hundreds of times. A single sum could only begin after the
backward pass.
"""


@dataclass(frozen=True)
class _Bucket:
    """Gradients whose sum is under way: the tensors, all of them flat (values,), and the work."""

    gradients: list[Tensor]
    flat: Tensor
    work: dist.Work


class GradientSums:
    """Sums of the gradients over all processes, most of which run during the backward pass.

    A step has three parts: the backward pass of the last micro-batch inside `collecting`, then
    `launch_rest`, then `finish`. The first two start sums, the last one waits for them.

    Parameters without a gradient in a step are left out, as those of a supernet's paths that were
    not drawn. The others are summed in the order in which the backward pass completes them. It
    follows from the graph, so it is the same in all processes; `finish` checks this.

    Args:
        module: its parameters get the sums. With one process nothing happens.
        processes: all processes of the training.
        bucket_bytes: size of the gradients that are summed at once.
    """

    def __init__(
        self, module: torch.nn.Module, processes: Processes, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self.count = processes.count
        self.bucket_bytes = bucket_bytes
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._collecting = False
        self._order: list[int] = []
        self._waiting: list[Tensor] = []
        self._waiting_bytes = 0
        self._buckets: list[_Bucket] = []
        if self.count > 1:
            # Synchronised batch norms exchange sums in the backward pass, too. In one group these
            # would queue behind the gradients, and the backward pass would wait for all of them.
            self.group = dist.new_group()
            self._hooks = [
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    partial(self._completed, index)
                )
                for index, parameter in enumerate(self.parameters)
            ]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Context manager: a backward pass inside starts sums as soon as gradients are complete."""
        self._collecting = self.count > 1
        try:
            yield
        except BaseException:
            self._discard()  # the step is not taken
            raise
        finally:
            self._collecting = False

    def launch_rest(self) -> int:
        """Start the sums of all other gradients; return a checksum (below 2^15) of the order."""
        if self.count == 1:
            return 0
        collected = set(self._order)
        for index, parameter in enumerate(self.parameters):
            # An earlier micro-batch may have reached parameters that the last one did not reach.
            if parameter.grad is not None and index not in collected:
                self._add(index, parameter)
        self._launch()
        return zlib.crc32(np.array(self._order, dtype="<i4").tobytes()) % 2**15

    def finish(self, checksum: int, checksums: float) -> None:
        """Wait for all sums and put them in place of the gradients.

        Args:
            checksum: of this process, as `launch_rest` returned it.
            checksums: sum of those of all processes.

        Raises:
            RuntimeError: another process has summed its gradients in another order, which would mix
                up parameters.
        """
        buckets = self._buckets
        self._discard()
        # Where one process differs, at least one of them sees another sum than its own times all.
        if checksums != checksum * self.count:
            raise RuntimeError(
                "gradients are complete in another order, or for other parameters, than in another"
                " process"
            )
        for bucket in buckets:
            bucket.work.wait()
            parts = torch.split(bucket.flat, [gradient.numel() for gradient in bucket.gradients])
            for gradient, part in zip(bucket.gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        if self.count > 1:
            for hook in self._hooks:
                hook.remove()

    def _completed(self, index: int, parameter: Tensor) -> None:
        if self._collecting:
            self._add(index, parameter)

    def _add(self, index: int, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._order.append(index)
        self._waiting.append(parameter.grad)
        self._waiting_bytes += parameter.grad.nbytes
        if self._waiting_bytes >= self.bucket_bytes:
            self._launch()

    def _launch(self) -> None:
        """Start the sum of the gradients that wait for one."""
        if not self._waiting:
            return
        gradients = self._waiting
        self._waiting = []
        self._waiting_bytes = 0
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        work = dist.all_reduce(flat, group=self.group, async_op=True)
        assert work is not None
        self._buckets.append(_Bucket(gradients, flat, work))

    def _discard(self) -> None:
        self._order = []
        self._waiting = []
        self._waiting_bytes = 0
        self._buckets = []


class SyncedBatchNorm(TorchFunctionMode):
    """Context in which batch norms in training mode take the statistics of all processes' images.

    torch's SyncBatchNorm is for GPUs only and replaces modules, but the supernet makes those of its
    narrowed blocks on the fly. All processes must run the same operations in the same order.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # nn.BatchNorm2d calls F.batch_norm with `training` as a keyword.
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
    """Return `F.batch_norm` in training mode of (B, C, ...), over the images of all processes.

    Their numbers of images may differ. The variance is the mean of (x - mean)^2, not E[x^2] -
    mean^2, in which large numbers cancel out. Sums are double, as torch's own are.
    """
    wide = x.float()
    # All dimensions but the channels are reduced; `shape` spreads (C,) over (B, C, ...) again.
    dims = [dim for dim in range(x.dim()) if dim != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    # Values per channel over all processes. Sums are divided by this, as processes may have unequal
    # shares: a mean of their means would weigh them wrongly.
    count = _sum(wide.new_tensor(x.numel() // x.shape[1]))
    mean = (_sum(wide.sum(dims, dtype=torch.float64)) / count).float()
    centred = wide - mean.view(shape)
    var = (_sum(centred.square().sum(dims, dtype=torch.float64)) / count).float()
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            # As in torch, the running variance is the unbiased one, the batch's own the biased.
            running_var.lerp_(var * count / (count - 1), momentum)
    scale = (var + eps).rsqrt() * (1 if weight is None else weight)
    normed = centred * scale.view(shape)
    normed = normed if bias is None else normed + bias.view(shape)
    return normed.to(x.dtype)


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, with its gradient.

    The sum enters the loss of every process, and the total loss is the sum of these. So the
    gradient of each summand is the sum of all processes' gradients.
    """

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
