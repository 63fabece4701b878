"""Walk of held-out images through members of a supernet that share their first operations.

`nas.supernet.sensitivity` calls it. Memory does not depend on the number of held-out images, and no
digit of a result depends on the number of threads.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.blocks import Operation
from nas.blocks.module import to_map
from nas.data import ImageData
from nas.data.images import SelectedImages
from nas.data.stream_store import StreamImages
from nas.network import stage_of
from nas.space import Architecture
from nas.supernet.supernet import Run, Supernet
from nas.tasks import Task, task_of
from nas.training.batches import normalise
from nas.training.evaluate import pieces_of
from nas.training.statistics import Normalised, Statistics, in_pieces, measure

if TYPE_CHECKING:
    from nas.tasks.base import Tally

CALIBRATION_BYTES = 2**28
"""Maximum size of the widest activation between two operations for all calibration images.

Batch norms take their statistics from all of them together, so this activation is held at once: of
the walked member, and before and after an operation of the member that branches off.
"""
_CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**30}
"""The same for the held-out images that are walked at once, by type of device."""
_READ = 64
"""Number of images that are read and normalised at once."""
MOST = 1024
"""Maximum number of held-out images that are walked at once by default."""


@dataclass(frozen=True)
class Result:
    """What a member answered on the held-out images.

    Attributes:
        tally: (N, ...), the counts of each image by the supernet's task: for classification 1 where
            its own class had the largest logit.
        loss: mean cross-entropy.
    """

    tally: Tally
    loss: float


@dataclass
class _Step:
    """One operation of a member: how it is run, and the statistics of its batch norms."""

    operation: Operation
    cut: Callable[[], Run]
    statistics: list[Statistics] = field(default_factory=list)


@dataclass
class _Flow:
    """Activations of all images on their way through a member.

    Attributes:
        x: the input of the next operation.
        has_stem: whether members have a stem of their own.
        first: the first stage (from 0) whose map the head takes, so that it is kept until then; None
            for a head that takes the last output alone.
        maps: the kept output of each stage, as a map.
        grid: height and width that tokens lie on.
    """

    x: Any
    has_stem: bool
    first: int | None
    maps: dict[int, Tensor] = field(default_factory=dict)
    grid: tuple[int, int] = (0, 0)

    def copy(self) -> _Flow:
        """Return the same activations, to go another way from here on."""
        return replace(self, maps=dict(self.maps))

    def advance(self, step: _Step, call: Callable[[_Step, Any], Tensor]) -> None:
        """Run the next operation."""
        operation = step.operation
        if operation.spec.layout == "pyramid":
            self.x = call(step, tuple(self.maps.values()))
            # The head is the last operation: nothing needs the maps any more.
            self.maps = {}
            return
        self.x = call(step, self.x)
        if self.first is None:
            return
        if self.x.dim() == 4:
            self.grid = (self.x.shape[2], self.x.shape[3])
        stage = stage_of(operation, self.has_stem)
        if stage is not None and stage >= self.first:
            self.maps[stage] = self.x if self.x.dim() == 4 else to_map(self.x, self.grid)


@dataclass
class _Branch:
    """A member from its first operation on that the walked member does not have.

    Attributes:
        start: index of that operation.
        steps: the operations from there on; none where the member is the walked one.
        losses: (2,) sum of the cross-entropies and their number, double.
        tallies: counts (B, ...) of the images, one per chunk.
    """

    start: int
    steps: list[_Step]
    losses: Tensor
    tallies: list[Tensor] = field(default_factory=list)

    def add(self, task: Task, scores: Tensor, targets: Tensor) -> None:
        """Add the answers for a chunk of images."""
        self.tallies.append(task.tally(scores, targets).int())
        self.losses += task.losses(scores, targets)

    @property
    def result(self) -> Result:
        """Return the result after all chunks, by one copy from the device."""
        total, count = self.losses.tolist()
        return Result(torch.cat(self.tallies).cpu().numpy(), total / max(count, 1))


class Walk:
    """Evaluator of members that differ from a base member only from some operation on.

    The base is walked once, operation by operation, and every member branches off from the
    activations at its first operation that differs. First the calibration images give every batch
    norm its statistics, then the held-out images pass in chunks. The weights of an operation are
    cut out of the supernet when it runs, so no member is held as a network.

    On a CPU the images of a chunk are shared by as many threads as torch may use. Each computes
    with a single thread: kernels that share one product between threads round it differently for
    each number of them (found with 3 and 4 threads, in a convolution and in a classifier).
    """

    def __init__(
        self, supernet: Supernet, calibration: ImageData, held_out: ImageData, bf16: bool
    ) -> None:
        self.supernet = supernet.eval()
        self.calibration = calibration
        self.held_out = held_out
        self.bf16 = bf16
        self.device = next(supernet.parameters()).device
        self.task = task_of(supernet.space.heads[0])

    @torch.no_grad()
    def results(
        self, base: Architecture, members: Sequence[Architecture], batch: int, images: int = 0
    ) -> list[Result]:
        """Return the result of each member.

        Args:
            base: the walked member.
            members: in any order; `base` may be among them.
            batch: number of held-out images that are walked at once.
            images: number of held-out images, 0 for all.
        """
        trunk, branches = self._plan(base, members)
        with self._workers() as run:
            calibrate = partial(self._calibrate, run=run)
            for _ in self._walk(
                trunk, branches, self._read(self.calibration, slice(None))[0], calibrate
            ):
                pass  # the outputs are not needed
            answer = partial(self._answer, run=run)
            count = images or len(self.held_out)
            for start in range(0, count, batch):
                part = slice(start, min(start + batch, count))
                x, targets = self._read(self.held_out, part)
                walk = self._walk(trunk, branches, x, answer)
                # The walk alone holds the images, and drops them as soon as it has passed them.
                del x
                for branch, scores in walk:
                    branch.add(self.task, scores, targets)
        return [branch.result for branch in branches]

    def _plan(
        self, base: Architecture, members: Sequence[Architecture]
    ) -> tuple[list[_Step], list[_Branch]]:
        """Return the operations of the base that are walked, and the branches of the members."""
        branches = []
        for member in members:
            start = first_difference(base, member)
            steps = [_Step(*each) for each in self.supernet.sliced(member)[start:]]
            losses = torch.zeros(2, dtype=torch.float64, device=self.device)
            branches.append(_Branch(start, steps, losses))
        # Behind the last branch nobody needs the activations of the base.
        last = max(branch.start for branch in branches)
        return [_Step(*each) for each in self.supernet.sliced(base)[:last]], branches

    def _walk(
        self,
        trunk: Sequence[_Step],
        branches: Sequence[_Branch],
        x: Tensor,
        call: Callable[[_Step, Any], Tensor],
    ) -> Iterator[tuple[_Branch, Tensor]]:
        """Yield each branch with its output, in the order in which the walk reaches them."""
        space = self.supernet.space
        levels = space.heads[0].levels
        flow = _Flow(x, bool(space.stems), len(space.stages) - levels if levels else None)
        del x
        for index in range(len(trunk) + 1):
            # Here `flow` is before the base's operation `index`.
            for branch in branches:
                if branch.start == index:
                    own = flow.copy()
                    for step in branch.steps:
                        own.advance(step, call)
                    yield branch, own.x
            if index < len(trunk):
                flow.advance(trunk[index], call)

    def _calibrate(self, step: _Step, x: Any, run: _Map) -> Tensor:
        """Set the statistics of an operation's batch norms; return its output."""
        output, norms = measure(step.cut(), x, pieces_of(step.operation, self.device), run)
        step.statistics = [norm.moments.statistics() for norm in norms]
        return output

    def _answer(self, step: _Step, x: Any, run: _Map) -> Tensor:
        """Return the output of an operation for held-out images."""
        call = step.cut()

        def answer(piece: Any) -> Tensor:
            with Normalised(step.statistics):
                output: Tensor = call(piece)
                return output

        return in_pieces(answer, x, pieces_of(step.operation, self.device), run)

    @contextmanager
    def _workers(self) -> Iterator[_Map]:
        """Yield a function that runs another one for all pieces, on all threads of a CPU."""

        def alone(function: Callable[[Any], Any], piece: Any) -> Any:
            # Both are settings of a thread.
            with torch.no_grad(), self._autocast():
                return function(piece)

        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            yield lambda function, pieces: [alone(function, piece) for piece in pieces]
            return
        try:
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                yield lambda function, pieces: list(
                    pool.map(lambda piece: alone(function, piece), pieces)
                )
        finally:
            # torch starts later threads with the number that was set last, in whichever thread.
            torch.set_num_threads(threads)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _read(self, data: ImageData, part: slice) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W), normalised and in channels-last format, and their targets.

        Both are on the device.
        """
        first, last, _ = part.indices(len(data))
        shape = (last - first, *data.images.shape[1:])
        images = torch.empty(shape, device=self.device, memory_format=torch.channels_last)
        targets = []
        # A few at a time: normalising makes several copies.
        for start in range(first, last, _READ):
            stop = min(start + _READ, last)
            pixels, answers = data.read(slice(start, stop))
            _forget(data.images)
            normalised = normalise(torch.from_numpy(pixels).to(self.device))
            images[start - first : stop - first] = normalised
            targets.append(torch.from_numpy(answers))
        return images, torch.cat(targets).to(self.device)


_Map = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]


def first_difference(base: Architecture, arch: Architecture) -> int:
    """Return the index of the first operation in which two architectures differ."""
    pairs = list(zip(base.operations(), arch.operations(), strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def calibration_images(arch: Architecture, wanted: int) -> int:
    """Return how many images the batch norms of a member and its neighbours may be calibrated on."""
    # At least two: on a map of one position a single image has no variance.
    return max(min(wanted, CALIBRATION_BYTES // _widest_bytes(arch)), 2)


def default_batch(arch: Architecture, device: torch.device) -> int:
    """Return how many held-out images are walked at once by default: a power of two."""
    limit = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cpu"]) // _widest_bytes(arch)
    # The highest bit alone: the largest power of two that is not above the limit.
    return 1 << (max(min(limit, MOST), 1).bit_length() - 1)


def _widest_bytes(arch: Architecture) -> int:
    """Return the size of the widest activation between two operations, in bytes per image.

    The input of a head of dense prediction is all the maps that it takes.
    """
    operations = arch.operations()
    shapes = [operations[0].input, operations[-1].input]
    shapes += [operation.output for operation in operations]
    return 4 * max(shape.elements for shape in shapes)


def _forget(images: NDArray[np.uint8] | StreamImages | SelectedImages) -> None:
    """Unmap the pages of a read-only memory map that were read, which count as this process's.

    The kernel keeps them in its cache as long as there is room.
    """
    if not isinstance(images, np.ndarray):
        return  # a stream has no map, and selected images are copies
    read_only = not images.flags.writeable
    owner: Any = images
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if read_only and isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
