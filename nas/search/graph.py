"""A space as a layered graph, for the exact engine and `nas.search.fastest`.

Every path from the first node to the last is a member, and every arc is a choice at one place. What
may follow depends on earlier choices only through a few things: the shape that comes in, whether
attention has begun, and how many blocks the stage still needs. These are a node's state, so that a
space of 10^20 members has about ten thousand arcs. To find the fastest, the smallest or the best
member is to find a path.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.blocks import (
    BlockSpec,
    EntrySpec,
    HeadSpec,
    Identity,
    Operation,
    Shape,
    Unflatten,
    pyramid,
)
from nas.space import Architecture, Space, Stage
from nas.space.architecture import with_layout
from nas.space.candidates import ROLES, widened
from nas.space.place import HEAD, STEM, Place

Floats = NDArray[np.float64]
Ends = tuple[NDArray[np.intp], NDArray[np.intp]]
"""The tail and the head node of every arc of a layer, (arcs,) each."""
Choice = tuple[Any, ...]
"""The attributes of an `Arc` behind its place, in their order."""


Numbered = tuple[list["Arc"], list[NDArray[np.intp]]]
"""Some arcs, and for each layer the number among these that stands for each arc, (arcs,)."""


@dataclass(frozen=True)
class State:
    """The state of a node: all of the earlier choices that later ones depend on.

    Two ways with equal states share a node.

    Attributes:
        shape: of the input of what follows.
        attentive: whether there was a global block, after which no local one is allowed.
        owed: how many blocks the stage still needs to reach its minimum depth.
        maps: the stage outputs so far that a head will take.
        like: numbers of the graph's exceptions that agree with all choices so far.
        taken: how many blocks the stage has so far; counted only while `like` is not empty.
    """

    shape: Shape
    attentive: bool = False
    owed: int = 0
    maps: tuple[Shape, ...] = ()
    like: tuple[int, ...] = ()
    taken: int = 0


@dataclass(frozen=True)
class Arc:
    """One choice: `block` at `place` turns the state of node `tail` into that of node `head`.

    Attributes:
        tail, head: numbers of the nodes.
        place: of the choice: the stem, the entry of a stage (also where a network has no other
            stem), a block or the head.
        block: the choice, with identity for a dropped position.
        width: channels of the residual stream that comes in; at positions that of the stage.
        operations: the block with the change of layout that it needs; none for identity.
        held: activation elements of earlier stages' maps that wait for the head meanwhile.
        exception: whether the paths that end with this arc are one of the graph's exceptions.
    """

    tail: int
    head: int
    place: Place
    block: BlockSpec
    width: int = 0
    operations: tuple[Operation, ...] = ()
    held: int = 0
    exception: bool = False

    @property
    def entry(self) -> EntrySpec:
        """Return the block of an arc at the stem or a stage's entry."""
        assert isinstance(self.block, EntrySpec)
        return self.block

    @property
    def classifier(self) -> HeadSpec:
        """Return the block of an arc at the head."""
        assert isinstance(self.block, HeadSpec)
        return self.block


class Layered(abc.ABC):
    """A graph in layers, as searches for paths see it.

    Every path leads from node 0 to the last node by one arc of every layer.

    Attributes:
        nodes: number of nodes.
    """

    nodes: int

    @property
    @abc.abstractmethod
    def ends(self) -> list[Ends]:
        """Return the tails and the heads of the arcs of each layer."""

    def potentials(self, weights: Sequence[Floats], bottleneck: bool = False) -> Floats:
        """Return for every node (nodes,) the least weight of a path from there to the end.

        Dynamic programming from the last layer to the first. A potential is infinite where no path
        leads to the end.

        Args:
            weights: of every arc, one array per layer.
            bottleneck: the weight of a path is that of its largest arc, not the sum.
        """
        least = np.full(self.nodes, np.inf)
        # The neutral element of the maximum or of the sum.
        least[-1] = -np.inf if bottleneck else 0.0
        for (tails, heads), weight in zip(reversed(self.ends), reversed(weights), strict=True):
            rest = np.maximum(weight, least[heads]) if bottleneck else weight + least[heads]
            # Unbuffered, since many arcs share a tail.
            np.minimum.at(least, tails, rest)
        return least

    def best(self, weights: Sequence[Floats], bottleneck: bool = False) -> list[int]:
        """Return a path of least weight, as the number of its arc in every layer."""
        least = self.potentials(weights, bottleneck)
        node = 0
        path = list[int]()
        for (tails, heads), weight in zip(self.ends, weights, strict=True):
            rest = np.maximum(weight, least[heads]) if bottleneck else weight + least[heads]
            # Of equal arcs the first one, so that a search gives the same member every time.
            path.append(int(np.argmin(np.where(tails == node, rest, np.inf))))
            node = int(heads[path[-1]])
        return path


class Graph(Layered):
    """The members of a space as paths.

    Nodes are numbered in the order of the network; all paths end at the last one. Members that drop
    different positions are different paths, even if they are the same network, as with members that
    moves lead to. (`Space.enumerate` lists each network once.)

    Args:
        space: whose members the paths are.
        exceptions: members whose paths end with arcs of their own, so that a search can leave them
            out. Ways that agree with different exceptions never share a node. So dominance between
            the labels of a node stays right: all of them may go on in the same way.
    """

    def __init__(self, space: Space, exceptions: Sequence[Architecture] = ()) -> None:
        self.space = space
        self.exceptions = tuple(exceptions)
        self._exceptions = [exception.compact() for exception in exceptions]
        self.layers: list[list[Arc]] = []
        """The arcs of each place, in network order; they lead to the nodes of the next layer."""
        self.nodes = 1
        self._operations: dict[tuple[int, Shape], tuple[Operation, ...]] = {}
        # An identity stays that of its block as long as the block is kept.
        self._blocks_kept: list[BlockSpec] = []
        # The largest number of last stages whose maps some head takes.
        self._levels = max((h.levels for h in space.heads if h.layout == "pyramid"), default=0)
        states = {State(Shape(3, *space.resolution), like=tuple(range(len(exceptions)))): 0}
        if space.stems:
            states = self._layer(states, STEM, self._stems)
        for index, stage in enumerate(space.stages):
            states = self._layer(states, Place.entry(index), self._entries)
            for position in range(stage.depths[1]):
                states = self._layer(states, Place.block(index, position), self._blocks)
        self._layer(states, HEAD, self._heads)

    def weigh(self, weight: Callable[[Arc], float], shared: bool = False) -> list[Floats]:
        """Return the weights of all arcs, one array per layer.

        Args:
            weight: of an arc.
            shared: whether arcs of the same operations have the same weight, so that one of them is
                weighed. A large space has twenty arcs for each operation.
        """
        if not shared:
            return [
                np.array([weight(arc) for arc in layer], dtype=np.float64) for layer in self.layers
            ]
        arcs, numbers = self.by_operations
        weights = np.array([weight(arc) for arc in arcs], dtype=np.float64)
        return [weights[layer] for layer in numbers]

    @cached_property
    def by_operations(self) -> Numbered:
        """Return one arc of each sequence of operations, and the number of each arc's (`numbered`)."""
        # By identity: `_operations_of` returns one tuple for all arcs of a block and a shape.
        return numbered(self.layers, lambda arc: id(arc.operations))

    def member(self, path: Sequence[int], name: str = "") -> Architecture:
        """Return the architecture of a path, with identity at dropped positions."""
        stem: EntrySpec | None = None
        stages: list[tuple[EntrySpec, list[BlockSpec]]] = []
        head = self.space.heads[0]
        for arc in (layer[number] for layer, number in zip(self.layers, path, strict=True)):
            if arc.place.part == "head":
                head = arc.classifier
            elif arc.place.part == "stem":
                stem = arc.entry
            elif arc.place.part == "entry":
                stages.append((arc.entry, []))
            else:
                stages[-1][1].append(arc.block)
        chosen = tuple(Stage(entry, tuple(blocks)) for entry, blocks in stages)
        return Architecture(self.space.name, self.space.resolution, chosen, head, name, stem)

    @cached_property
    def ends(self) -> list[Ends]:
        """Return the tails and the heads of the arcs of each layer."""
        return [
            (
                np.array([arc.tail for arc in layer], dtype=np.intp),
                np.array([arc.head for arc in layer], dtype=np.intp),
            )
            for layer in self.layers
        ]

    def _layer(
        self,
        states: dict[State, int],
        place: Place,
        options: Callable[[Place, State], Iterator[tuple[Choice, State]]],
    ) -> dict[State, int]:
        """Add the layer of a place, and return its new nodes by their states.

        Args:
            states: the nodes of the layer before, by their states.
            place: of the choice.
            options: yields for a state each choice and the state behind it.
        """
        after: dict[State, int] = {}
        arcs = []
        for state, tail in states.items():
            last: State | None = None
            head = 0
            for choice, follows in options(place, state):
                # Candidates that differ in their hidden width alone share the state behind them,
                # and to compare objects takes a tenth of the time of a look-up by their values.
                if follows is not last:
                    if follows not in after:
                        after[follows] = self.nodes
                        self.nodes += 1
                    head = after[follows]
                    last = follows
                arcs.append(Arc(tail, head, place, *choice))
        self.layers.append(arcs)
        return after

    def _stems(self, place: Place, state: State) -> Iterator[tuple[Choice, State]]:
        for stem in self.space.stems:
            operations = self._operations_of(place, stem, state.shape)
            like = tuple(number for number in state.like if self._exceptions[number].stem == stem)
            choice = (stem, state.shape.channels, operations, _elements(state.maps))
            yield choice, State(operations[-1].output, like=like)

    def _entries(self, place: Place, state: State) -> Iterator[tuple[Choice, State]]:
        index = place.stage or 0
        stage = self.space.stages[index]
        space = self.space
        attentive = state.attentive and space.placement == "network_suffix"
        for width in stage.widths:
            for entry in stage.entries:
                block = widened(entry, width)
                operations = self._operations_of(place, block, state.shape)
                shape = operations[-1].output
                # A stage's positions keep its shape, so its map is known at its entry. Maps that no
                # head can take would only split nodes.
                tapped = index >= len(space.stages) - self._levels
                maps = (*state.maps, replace(shape, layout="map")) if tapped else ()
                like = tuple(
                    n for n in state.like if self._exceptions[n].stages[index].entry == block
                )
                # A new stage owes its minimum depth, and has taken no block yet.
                # (A frozen one has what it has, however few blocks that is.)
                owed = 0 if stage.fixed else stage.depths[0]
                choice = (block, state.shape.channels, operations, _elements(state.maps))
                yield choice, State(shape, attentive, owed, maps, like)

    def _blocks(self, place: Place, state: State) -> Iterator[tuple[Choice, State]]:
        index = place.stage or 0
        position = place.position or 0
        last = self.space.stages[index].depths[1] - 1

        # Behind the last position, nodes that differ only in what the stage needs no more merge.
        def follows(state: State) -> State:
            return self._at_end(state, index) if position == last else state

        # At a position the last of the maps is the stage's own stream, which its operations count.
        held = _elements(state.maps[:-1])
        width = state.shape.channels
        # States behind a block, by all that tells them apart.
        behind: dict[tuple[str, str, tuple[int, ...]], State] = {}
        for role, block in self._choices(index, position, state):
            if isinstance(block, Identity):
                yield (block, width), follows(state)
                continue
            operations = self._operations_of(place, block, state.shape)
            output = operations[-1].output
            # Empty for most states, where no exception has to be compared.
            like = tuple(n for n in state.like if self._next_block(n, index, state.taken) == block)
            # A block keeps the stage's channels and grid.
            key = role, output.layout, like
            if key not in behind:
                behind[key] = follows(
                    State(
                        output,
                        attentive=role == "global" or state.attentive,
                        owed=max(0, state.owed - 1),
                        maps=state.maps,
                        like=like,
                        # Counted only for exceptions: otherwise it would split nodes for no reason.
                        taken=state.taken + 1 if like else 0,
                    )
                )
            yield (block, width, operations, held), behind[key]

    def _choices(self, index: int, position: int, state: State) -> Iterator[tuple[str, BlockSpec]]:
        """Yield the blocks that may stand at a position, each with its role."""
        stage = self.space.stages[index]
        if stage.fixed is not None:
            block = stage.fixed.blocks[position]
            role = stage.kind(block)
            # Ways that need another block here have no arc, and so no way to the end.
            if not (role == "local" and state.attentive):
                yield role, block
            return
        # Identity only where the positions that are left suffice for the minimum depth.
        if state.owed <= stage.depths[1] - 1 - position:
            yield "identity", Identity()
        for each in ROLES:
            if each == "local" and state.attentive:
                continue
            for block in self.space.candidates(index, each, state.shape.channels):
                yield each, block

    def _next_block(self, number: int, index: int, taken: int) -> BlockSpec | None:
        """Return an exception's block of a stage after `taken` blocks; None after its last one."""
        blocks = self._exceptions[number].stages[index].blocks
        return blocks[taken] if taken < len(blocks) else None

    def _at_end(self, state: State, index: int) -> State:
        """Return the state behind the last position of a stage, without what no longer matters."""
        attentive = state.attentive and self.space.placement == "network_suffix"
        like = tuple(n for n in state.like if self._next_block(n, index, state.taken) is None)
        return replace(state, attentive=attentive, like=like, taken=0)

    def _heads(self, place: Place, state: State) -> Iterator[tuple[Choice, State]]:
        # All paths end in one node, so the shape of its state is any one.
        end = State(Shape(1, 1, 1))
        for head in self.space.heads:
            exception = any(same_head(self._exceptions[number].head, head) for number in state.like)
            if head.layout != "pyramid":
                operations = self._operations_of(place, head, state.shape)
                width = state.shape.channels
                yield (head, width, operations, _elements(state.maps), exception), end
                continue
            # A head of several levels takes maps, so tokens of the last stage are unflattened.
            last = (
                with_layout(place, Unflatten(), state.shape)
                if state.shape.layout == "tokens"
                else ()
            )
            operation = Operation(str(place), head, pyramid(state.maps[-head.levels :]))
            operations = (*last, operation)
            yield (head, 0, operations, _elements(state.maps[:-1]), exception), end

    def _operations_of(self, place: Place, block: BlockSpec, shape: Shape) -> tuple[Operation, ...]:
        # By the identity of the block, which the space keeps, as a hash of all of its
        # hyperparameters takes longer than all else here.
        key = id(block), shape
        known = self._operations.get(key)
        if known is None:
            self._blocks_kept.append(block)
            known = self._operations[key] = tuple(with_layout(place, block, shape))
        return known


def numbered(layers: Sequence[Sequence[Arc]], key: Callable[[Arc], int]) -> Numbered:
    """Return one arc of each key, and for each layer the number of each arc's key among these."""
    numbers: dict[int, int] = {}
    arcs: list[Arc] = []
    each_layer = []
    for layer in layers:
        keys = [key(arc) for arc in layer]
        for arc, each in zip(layer, keys, strict=True):
            if each not in numbers:
                numbers[each] = len(arcs)
                arcs.append(arc)
        each_layer.append(np.array([numbers[each] for each in keys], dtype=np.intp))
    return arcs, each_layer


def _elements(maps: Sequence[Shape]) -> int:
    return sum(shape.elements for shape in maps)


def same_head(head: HeadSpec, other: HeadSpec) -> bool:
    """Return whether two heads are equal up to their number of classes."""
    same_kind = head.kind == other.kind
    return same_kind and replace(head, classes=other.classes) == other
