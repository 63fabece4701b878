"""Batch-norm statistics of a block over many images, of which only a few pass it at once.

`nas.training.evaluate` recalibrates networks with it, `nas.supernet.sensitivity` the members of a
supernet. The statistics are those of one batch with all images, however they are cut into pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from traceback import clear_frames
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Callable[[Item], Result], Sequence[Item]], list[Result]]
"""A function that returns the results of a function for several items, as `list(map(...))` does."""

_SLICE = {"cpu": 2**18, "cuda": 2**25}
"""Maximum elements of an activation that are widened to double at once, by type of device."""
_NONE = torch.empty(0)


@dataclass(frozen=True)
class Moments:
    """Mean and variance of the values of each channel.

    Sums are double: their rounding, which depends on the order of the sum, is then far below that
    of the activations.

    Attributes:
        count: number of values per channel.
        mean: (C,), double.
        squares: (C,), double: the sum of (x - mean)^2.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Return the moments of an activation (B, C, ...)."""
        # All dimensions but the channels are reduced.
        dims = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        # A double copy of the whole activation would take twice the memory of the block itself.
        images = max(1, _SLICE.get(x.device.type, _SLICE["cpu"]) // max(x[0].numel(), 1))
        parts = []
        for part in torch.split(x, images):
            wide = part.double()
            mean = wide.mean(dims)
            squares = (wide - mean.view(shape)).square().sum(dims)
            parts.append(cls(part.numel() // part.shape[1], mean, squares))
        return cls.combined(parts)

    @classmethod
    def combined(cls, parts: Iterable[Moments]) -> Moments:
        """Return the moments of all values together.

        Chan, Golub and LeVeque (The American Statistician 37:242-247, 1983), Eq. 2.1: the sum of
        squares is that within the parts and that of their means around the common mean.
        """
        first, *others = parts
        count = first.count
        mean = first.mean
        squares = first.squares
        for other in others:
            total = count + other.count
            apart = other.mean - mean
            mean = mean + apart * (other.count / total)
            squares = squares + other.squares + apart.square() * (count * other.count / total)
            count = total
        return cls(count, mean, squares)

    def statistics(self, biased: bool = False) -> Statistics:
        """Return mean and variance as a batch norm takes them.

        Args:
            biased: divide by n, as a batch norm in training mode normalises its own batch; else by
                n - 1, as it keeps the variance for other images.
        """
        count = self.count if biased else max(self.count - 1, 1)
        return self.mean.float(), (self.squares / count).float()


Statistics = tuple[Tensor, Tensor]
"""Mean and variance of a batch norm, (C,) each, float32."""


class Normalised(TorchFunctionMode):
    """Context in which the batch norms of one block normalise by given statistics.

    The block may be run once in it. Its batch norms are known by the order in which it calls them,
    so the block itself, which other members and threads share, stays as it is.
    """

    def __init__(self, statistics: Sequence[Statistics]) -> None:
        super().__init__()
        self.statistics = statistics
        self.calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._normalise(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalise(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        mean, variance = self._statistics(x, running_mean, running_var)
        self.calls += 1
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    def _statistics(
        self, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None
    ) -> Statistics:
        """Return the statistics of the next batch norm, whose input is `x`."""
        return self.statistics[self.calls]


class _Enough(Exception):
    """Ends the walk through a block at the first batch norm whose statistics are not known."""


@dataclass(frozen=True)
class Norm:
    """A batch norm of a block.

    Attributes:
        moments: of its input over all images.
        buffers: its running mean and variance, which `nas.training.evaluate.recalibrate` sets.
    """

    moments: Moments
    buffers: tuple[Tensor | None, Tensor | None]


class _Measured(Normalised):
    """Context in which one piece of the images measures the batch norms of a block.

    Attributes:
        norms: the batch norms whose moments are known.
        whole: whether the piece has all images, so that its moments are those of all.
        norm: the first batch norm that was not known, with the moments of this piece.
    """

    def __init__(self, norms: Sequence[Norm], whole: bool) -> None:
        super().__init__([norm.moments.statistics(biased=True) for norm in norms])
        self.norms = list(norms)
        self.whole = whole
        self.norm: Norm | None = None

    def _statistics(
        self, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None
    ) -> Statistics:
        if self.calls < len(self.statistics):
            return self.statistics[self.calls]
        self.norm = Norm(Moments.of(x), (running_mean, running_var))
        if not self.whole:
            raise _Enough
        self.norms.append(self.norm)
        self.statistics = [*self.statistics, self.norm.moments.statistics(biased=True)]
        return self.statistics[-1]


class Joined:
    """What is computed of consecutive pieces, written into one tensor.

    A list of results would leave each in memory that a wider activation of the block had before,
    and the same activation of the next piece would not fit there again: the process would keep
    several times what it uses.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._joined: Tensor | None = None
        self._lock = Lock()

    @property
    def tensor(self) -> Tensor:
        """Return the tensor (rows, ...), which is complete once all pieces were added."""
        assert self._joined is not None
        return self._joined

    def add(self, start: int, output: Tensor) -> None:
        """Add rows from `start` on. Several threads may call it."""
        if len(output) == self.rows:
            self._joined = output
            return
        with self._lock:
            if self._joined is None:
                maps = output.dim() == 4
                last = maps and output.is_contiguous(memory_format=torch.channels_last)
                self._joined = torch.empty(
                    (self.rows, *output.shape[1:]),
                    dtype=output.dtype,
                    device=output.device,
                    memory_format=torch.channels_last if last else torch.contiguous_format,
                )
        self._joined[start : start + len(output)] = output


def in_pieces(call: Callable[[Any], Tensor], x: Any, images: int, run: Run[int, None]) -> Tensor:
    """Return the output of a block for `x` (B, ...), of which `images` pass it at once.

    `x` may be a tuple of maps.
    """
    count = _images_of(x)
    joined = Joined(count)
    run(
        lambda start: joined.add(start, call(_piece(x, start, images))),
        range(0, count, images),
    )
    return joined.tensor


def _images_of(x: Any) -> int:
    """Return the number of images of an input (B, ...), or of a tuple of maps."""
    return len(x[0]) if isinstance(x, tuple) else len(x)


def _piece(x: Any, start: int, images: int) -> Any:
    """Return some images of an input (B, ...), or of a tuple of maps."""
    if isinstance(x, tuple):
        return tuple(each[start : start + images] for each in x)
    return x[start : start + images]


def measure(
    call: Callable[[Any], Tensor], x: Any, images: int, run: Run[int, Any]
) -> tuple[Tensor, list[Norm]]:
    """Return the output of a block for all images, and its batch norms in the order of their calls.

    Every batch norm normalises by the statistics of all images, as in one large batch. So the
    block is walked once per batch norm, each time up to the first one that is not known yet, and
    once more for the output: only the block's own input and output are held for all images. Images
    that pass at once need one walk.

    Args:
        call: runs the block on some of the images.
        x: the input for all images (B, ...), or a tuple of maps.
        images: number of images that pass the block at once.
        run: runs a function for the first image of every piece.
    """
    if images >= _images_of(x):
        mode = _Measured([], whole=True)

        def once(start: int) -> Any:
            with mode:
                return call(x)

        (output,) = run(once, [0])
        return output, mode.norms
    norms: list[Norm] = []
    while True:
        found = _measure_next(call, x, images, norms, run)
        if isinstance(found, Tensor):
            return found, norms
        norms.append(found)


def _measure_next(
    call: Callable[[Any], Tensor],
    x: Any,
    images: int,
    norms: Sequence[Norm],
    run: Run[int, Any],
) -> Tensor | Norm:
    """Return the first batch norm of a block that is not in `norms`; its output where all are."""
    starts = range(0, _images_of(x), images)
    joined = Joined(_images_of(x))
    means = Joined(len(starts))
    squares = Joined(len(starts))

    def walk(start: int) -> Norm | None:
        mode = _Measured(norms, whole=False)
        try:
            with mode:
                joined.add(start, call(_piece(x, start, images)))
        except _Enough as enough:
            # The frames that it left hold activations, and may hold each other in a circle.
            clear_frames(enough.__traceback__)
        if mode.norm is None:
            return None
        moments = mode.norm.moments
        means.add(start // images, moments.mean[None])
        squares.add(start // images, moments.squares[None])
        # Only the joined tensors are kept, see `Joined`.
        return replace(mode.norm, moments=replace(moments, mean=_NONE, squares=_NONE))

    measured = [norm for norm in run(walk, starts) if norm is not None]
    if not measured:
        return joined.tensor
    parts = [
        replace(norm.moments, mean=mean, squares=square)
        for norm, mean, square in zip(measured, means.tensor, squares.tensor, strict=True)
    ]
    first: Norm = measured[0]
    return replace(first, moments=Moments.combined(parts))
