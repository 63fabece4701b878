"""The member of a space that takes the least of something, exactly: a shortest path through the
space's graph."""

from __future__ import annotations

from math import isinf

from nas import resources
from nas.blocks import Operation
from nas.errors import InputError
from nas.latency import LatencyTable
from nas.latency.rows import UNSUPPORTED_FILE
from nas.search.graph import Floats, Graph
from nas.search.limits import Measure, latency
from nas.space import Architecture, Space


def fastest(
    space: Space, table: LatencyTable, graph: Graph | None = None
) -> tuple[float, Architecture]:
    """Return the smallest predicted latency (ms) in `space`, and a member that has it. `graph` is
    that of the space, if known.

    Raises:
        MissingRows: when `table` lacks rows for some members; all of them are in its `operations`.
            Rows of operations that the device cannot run are none of these: members that have one
            do not count.
        InputError: when the device can run no member.
    """
    graph = graph or Graph(space)
    weights = latencies(graph, table)
    if isinf(graph.potentials(weights)[0]):
        raise InputError(
            f"{table.device.name} can run no member of space '{space.name}': of every one it"
            f" refuses an operation ({table.path}/{UNSUPPORTED_FILE} says why)"
        )
    path = graph.best(weights)
    arch = graph.member(path, f"{space.name}-fastest").compact()
    return table.total_ms(arch), arch


def least(graph: Graph, measure: Measure) -> tuple[float, Architecture]:
    """Return the smallest amount of what `measure` measures, and a member that takes no more."""
    weights = graph.weigh(measure.of)
    arch = graph.member(graph.best(weights, measure.peak), f"{graph.space.name}-least").compact()
    return measure.total(arch), arch


def latencies(graph: Graph, table: LatencyTable) -> list[Floats]:
    """Return the ms of every arc, without the intercept; infinite for what the device cannot run.

    Raises:
        MissingRows: as `fastest`.
    """
    missing: dict[tuple[str, str, str], Operation] = {}
    for arc in (arc for layer in graph.layers for arc in layer):
        for operation in arc.operations:
            if table.ms(operation) is None and operation.key not in table.unsupported:
                missing[operation.key] = operation
    if missing:
        raise table.missing_rows(tuple(missing.values()), _argument(graph.space))
    return graph.weigh(latency(table).of)


def _argument(space: Space) -> str:
    """Return what --space takes for it: the name where that finds this file, else the path."""
    known = resources.names(resources.SPACES, "*.yaml").get(space.name)
    return space.name if not space.path or str(known) == space.path else space.path
