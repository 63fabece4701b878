"""The chain of blocks that devices measure and `converter` converts, and the errors of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nas.blocks import BlockSpec, Flatten, HeadSpec, Operation, Shape, from_dict, pyramid
from nas.errors import NasError
from nas.files import data_sha256


class OperationFailed(NasError):
    """A chain that cannot be converted or run here; the device is well and takes the next one."""


class Interrupted(NasError):
    """A process that was ended from outside, as by the kernel for want of memory.

    It says nothing about the chain, which no table may record as one that the device cannot run.
    The same command tries the chain again.
    """


class DeviceLost(NasError):
    """A device that is gone or sends invalid data; it cannot measure again without a repair.

    Attributes:
        reason: message without the name of the device, for lists that name it themselves.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


@dataclass(frozen=True)
class Link:
    """One block of a chain with its input.

    Attributes:
        spec: of the block.
        input: shape of its input.
        taps: for a block on a pyramid, indices of the earlier blocks whose outputs are its maps;
            empty where the chain's own input is the pyramid.
    """

    spec: BlockSpec
    input: Shape
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Weights:
    """Trained weights for the blocks of a chain.

    Attributes:
        path: safetensors file with the state dict of a network.
        sha256: of that file.
        names: prefix of each block's keys in it, in the order of the chain.
    """

    path: str
    sha256: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Chain:
    """Blocks that run one after the other: copies of one operation, or a whole network.

    Attributes:
        blocks: in their order.
        input: shape of the first block's input.
        tied: whether equal blocks share one set of weights. The file is smaller and converts
            sooner. It runs as fast where the runtime packs the weights of every layer separately,
            as LiteRT's XNNPACK does.
        weights: of the blocks (default: random ones).
    """

    blocks: tuple[BlockSpec, ...]
    input: Shape
    tied: bool = False
    weights: Weights | None = None

    @classmethod
    def stack(cls, operation: Operation, copies: int = 1) -> Chain:
        """Return `copies` of an operation in a row.

        Several need an operation whose output has the shape of its input.
        """
        return cls((operation.spec,) * copies, operation.input, tied=True)

    @classmethod
    def network(cls, operations: Iterable[Operation], weights: Weights | None = None) -> Chain:
        """Return the chain of a whole network's operations."""
        operations = tuple(operations)
        return cls(
            tuple(operation.spec for operation in operations), operations[0].input, weights=weights
        )

    def links(self) -> tuple[Link, ...]:
        """Return the blocks with their inputs.

        A head on a pyramid gets the last map of each size, from the coarsest sizes that it takes.
        """
        links = list[Link]()
        outputs = list[Shape]()
        shape = self.input
        for spec in self.blocks:
            taps: tuple[int, ...] = ()
            if isinstance(spec, HeadSpec) and spec.levels and shape.layout != "pyramid":
                # A later block of the same size overwrites an earlier one, so each size keeps its
                # last map: the output of its stage. Sizes fall along a network, so the highest
                # indices are the coarsest levels.
                last = {
                    (output.height, output.width): index for index, output in enumerate(outputs)
                }
                taps = tuple(sorted(last.values())[-spec.levels :])
                shape = pyramid([outputs[tap] for tap in taps])
            links.append(Link(spec, shape, taps))
            shape = spec.output_shape(shape)
            outputs.append(shape)
        return tuple(links)

    @property
    def output(self) -> Shape:
        """Return the shape of the chain's output."""
        last = self.links()[-1]
        return last.spec.output_shape(last.input)

    def to_dict(self) -> dict[str, Any]:
        data = {
            "blocks": [block.to_dict() for block in self.blocks],
            "input": str(self.input),
            "tied": self.tied,
        }
        return data | ({"weights": asdict(self.weights)} if self.weights else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Chain:
        weights = (
            Weights(**{**data["weights"], "names": tuple(data["weights"]["names"])})
            if "weights" in data
            else None
        )
        return cls(
            tuple(map(from_dict, data["blocks"])), Shape.parse(data["input"]), data["tied"], weights
        )

    def digest(self) -> str:
        """Return a name for this chain that is equal in every process (32 hexadecimal digits)."""
        return data_sha256(self.to_dict())[:32]

    def __str__(self) -> str:
        first = f"{self.blocks[0].kind}({self.blocks[0]}) on {self.input}"
        return first if len(self.blocks) == 1 else f"{len(self.blocks)} blocks from {first}"


EMPTY = Chain((Flatten(),), Shape(8, 1, 1))
"""Chain of next to no work: its time is the cost of a call.

It runs everywhere, so it is the control after a failure: where it fails too, the fault is not the
other chain's.
"""
