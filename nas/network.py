"""Network: an architecture as a torch module, one child per operation.

`nas.build` makes it. The supernet and backbones run the same chains by `run` and `pyramid`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from nas.blocks import Operation
from nas.blocks.build import build_block
from nas.blocks.drop_path import DropPath, block_factors, images_of_step
from nas.blocks.module import Block, to_map
from nas.errors import check_type
from nas.space import Architecture
from nas.space.place import Place

Call = Callable[[Operation, Any], Any]
"""A function that runs one operation on its input."""


_CHECKPOINTING: list[Callable[[], AbstractContextManager[Any]]] = []
"""Of each active `checkpointing`, what surrounds the second computation of an operation."""


@contextmanager
def checkpointing(
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[None]:
    """Context manager: inside, `run` keeps the input of each operation alone for the backward pass.

    What is inside an operation is computed a second time there (arXiv:1604.06174), which takes
    about a third more time and a fraction of the memory.

    Args:
        around: makes the context of the second computation, as the backward pass may run in another
            thread, where contexts of this one are not active.
    """
    _CHECKPOINTING.append(around)
    try:
        yield
    finally:
        _CHECKPOINTING.pop()


def _recomputed(call: Call) -> Call:
    """Return a function that runs an operation under `torch.utils.checkpoint`."""
    around = _CHECKPOINTING[-1]

    @contextmanager
    def again() -> Iterator[None]:
        with around(), _KeptStatistics():
            yield

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), again()

    def kept(operation: Operation, x: Any) -> Any:
        return checkpoint(
            call,
            operation,
            x,
            use_reentrant=False,
            preserve_rng_state=False,  # no operation draws from torch's generator
            context_fn=contexts,
        )

    return kept


class _KeptStatistics(TorchFunctionMode):
    """Context in which batch norms in training mode leave running statistics as they are.

    The first computation of an operation has updated them; the second one must not do it again.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        # nn.BatchNorm2d calls F.batch_norm(x, running_mean, running_var, ..., training=...).
        # Copies get the update: without any the operation would save fewer tensors than before.
        if func is F.batch_norm and kwargs.get("training"):
            running = [None if each is None else each.clone() for each in args[1:3]]
            return func(args[0], *running, *args[3:], **kwargs)
        # Its counter of batches is the only integer that a module of the vocabulary counts up.
        if func is Tensor.add_ and args[0].dtype == torch.int64:
            return args[0]
        return func(*args, **kwargs)


def _dropped(
    operations: Sequence[Operation], images: DropPath, device: torch.device, call: Call
) -> Call:
    """Return a function that runs an operation with drop path, for one pass through a network.

    Depth is counted in the blocks of the stages. Stems, entries and heads keep their branches.
    """
    names = [each.name for each in operations if Place.parse(each.name).part == "block"]
    factors = dict(zip(names, images.factors(len(names), device), strict=True))

    def dropped(operation: Operation, x: Any) -> Any:
        if operation.name not in factors:
            return call(operation, x)
        with block_factors(factors[operation.name]):
            return call(operation, x)

    return dropped


def run(operations: Sequence[Operation], x_bchw: Tensor, call: Call) -> Any:
    """Return the output of a chain of operations, the last of which is the head.

    A head that takes a pyramid gets the outputs of the stages, other heads that of the last one.

    Args:
        operations: of the network, in order.
        x_bchw: images.
        call: runs one operation.
    """
    if torch.is_grad_enabled():
        # In this order: an operation that is computed again leaves out the same branches.
        images = images_of_step()
        call = call if images is None else _dropped(operations, images, x_bchw.device, call)
        call = _recomputed(call) if _CHECKPOINTING else call
    head = operations[-1]
    if head.spec.layout == "pyramid":
        return call(head, pyramid(operations[:-1], x_bchw, call)[-len(head.input.levels) :])
    x: Any = x_bchw
    for operation in operations:
        x = call(operation, x)
    return x


def pyramid(operations: Sequence[Operation], x_bchw: Tensor, call: Call) -> tuple[Tensor, ...]:
    """Return the output of each stage as a map (B, C, H, W).

    Args:
        operations: of the stem and the stages, in order.
        x_bchw: images.
        call: runs one operation.
    """
    # By stage: every operation of a stage overwrites the output of the one before it.
    maps: dict[int, Tensor] = {}
    has_stem = any(Place.parse(operation.name) == Place.entry(0) for operation in operations)
    x = x_bchw
    grid = (0, 0)
    for operation in operations:
        x = call(operation, x)
        # Tokens (B, N, C) lie on the grid of the last map before them.
        if x.dim() == 4:
            grid = (x.shape[2], x.shape[3])
        stage = stage_of(operation, has_stem)
        if stage is not None:
            maps[stage] = x if x.dim() == 4 else to_map(x, grid)
    return tuple(maps.values())


def stage_of(operation: Operation, has_stem: bool) -> int | None:
    """Return the stage (from 0) that an operation's output may be that of; None where it is of none.

    Args:
        operation: of the stem or a stage.
        has_stem: whether the network has a stem of its own.
    """
    place = Place.parse(operation.name)
    # The output of a reshape does not count. That of the stem counts for stage 1 only where the
    # stage has no entry of its own, and the blocks of the stage then replace it.
    if operation.spec.changes_layout or (place.part == "stem" and has_stem):
        return None
    return place.stage or 0


def caller(module: nn.Module, operations: Sequence[Operation], x_bchw: Tensor) -> Call:
    """Return a function that runs operations by a module's children, for one pass over `x_bchw`.

    Tokens (B, N, C) do not hold the grid (height, width) that they lie on. The last map before them
    does. Blocks that take it (`Block.takes_grid`) therefore work at any input size.

    Raises:
        ValueError: for another aspect ratio than the architecture's, where a block on tokens does
            not take the grid.
    """
    _check_aspect(module, operations, x_bchw)
    grid = (x_bchw.shape[2], x_bchw.shape[3])

    def call(operation: Operation, x: Any) -> Any:
        nonlocal grid
        block = module.get_submodule(operation.name)
        if operation.input.layout == "map":
            grid = (x.shape[2], x.shape[3])
        elif operation.input.layout == "tokens" and _takes_grid(block):
            return block(x, grid)
        return block(x)

    return call


def _check_aspect(module: nn.Module, operations: Sequence[Operation], x_bchw: Tensor) -> None:
    """Raise ValueError where a block on tokens would get them on a grid of unknown aspect ratio."""
    for operation in operations:
        if operation.name == "head" or operation.input.layout != "tokens":
            continue
        block = module.get_submodule(operation.name)
        height = operation.input.height
        width = operation.input.width
        if not _takes_grid(block) and x_bchw.shape[2] * width != x_bchw.shape[3] * height:
            raise ValueError(
                f"{operation.name}: {operation.spec.kind} cannot see the grid of its tokens (got an"
                f" input of {x_bchw.shape[2]}x{x_bchw.shape[3]}, expected the aspect ratio"
                f" {height}:{width}). Fix: nas.build(arch.at((height, width)))"
            )


def _takes_grid(block: nn.Module) -> bool:
    return isinstance(block, Block) and block.takes_grid


class Network(nn.Module):
    """The network of an architecture: images (B, 3, H, W) to logits (B, classes) in eval mode.

    Every operation of `architecture` is the child module of its name: stem, stage2_entry,
    stage3_block5, head. In training mode a distillation head returns a pair of logits. A head of
    dense prediction returns scores (B, classes, H, W).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        operations = architecture.operations()
        for operation in operations:
            self.add_module(operation.name, build_block(operation.spec, operation.input))

    def __repr__(self) -> str:
        return f"Network({self.architecture!r})"

    def __str__(self) -> str:
        """Return every layer, one per line, as `print` shows any other torch module."""
        return super().__repr__()

    def forward(self, x_bchw: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        operations = self.architecture.operations()
        output: Tensor | tuple[Tensor, Tensor] = run(
            operations, x_bchw, caller(self, operations, x_bchw)
        )
        return output

    def forward_features(self, x_bchw: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the stages as maps (B, C, H, W), at strides 4, 8, 16 and 32."""
        operations = self.architecture.operations()[:-1]
        return pyramid(operations, x_bchw, caller(self, operations, x_bchw))

    def deploy(self) -> Network:
        """Merge two heads into one and make attention biases constant, in place."""
        for block in self.children():
            if isinstance(block, Block):
                block.deploy()
        return self


def build(architecture: Architecture) -> Network:
    """Return the network of an architecture, freshly initialised, in training mode."""
    check_type("arch", architecture, Architecture, "nas.load_architecture")
    return Network(architecture)
