"""Find the fastest or smallest member of a space by a shortest path through its graph.

`nas.search.pose` calls it to refuse limits that no member keeps, and the exact engine to weigh arcs
by latency.
"""

from __future__ import annotations

from dataclasses import replace
from math import isinf

from nas import resources
from nas.accuracy.hidden_widths import family
from nas.blocks import BlockSpec, Operation
from nas.errors import InputError
from nas.latency import LatencyTable
from nas.latency.rows import UNSUPPORTED_FILE
from nas.search.graph import Floats, Graph
from nas.search.limits import Measure, latency
from nas.space import Architecture, Space
from nas.space.architecture import with_layout
from nas.space.candidates import ROLES
from nas.space.fit import misfit
from nas.space.place import Place


def fastest(
    space: Space, table: LatencyTable, graph: Graph | None = None
) -> tuple[float, Architecture]:
    """Return the smallest predicted latency in `space` in ms, and a member that has it.

    Members with an operation that the device cannot run do not count.

    Args:
        space: whose members are compared.
        table: of the device.
        graph: of the space, if it is known already.

    Raises:
        MissingRows: `table` lacks rows of operations that the device may run; its `operations`
            lists all of them.
        InputError: the device can run no member.
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
    # Not the potential of the first node, which lacks the intercept and the table's rounding.
    return table.total_ms(arch), arch


def least(graph: Graph, measure: Measure) -> tuple[float, Architecture]:
    """Return the smallest amount of `measure` in a space, and a member that has it."""
    weights = graph.weigh(measure.of)
    arch = graph.member(graph.best(weights, measure.peak), f"{graph.space.name}-least").compact()
    return measure.total(arch), arch


def latencies(graph: Graph, table: LatencyTable) -> list[Floats]:
    """Return the latency of every arc in ms, one array per layer, without the table's intercept.

    Arcs with an operation that the device cannot run are infinite.

    Raises:
        MissingRows: as `fastest`.
    """
    # All missing rows are collected first, so that one message names them all.
    missing: dict[tuple[str, str, str], Operation] = {}
    for arc in graph.by_operations[0]:
        for operation in arc.operations:
            for part in table.lacking(operation):
                if part.key not in table.unsupported:
                    missing[part.key] = part
    if missing:
        raise table.missing_rows(tuple(missing.values()), _argument(graph.space))
    return graph.weigh(latency(table).of, shared=True)


def priced_part(space: Space, table: LatencyTable) -> Space:
    """Return the part of a space without the expansions that a table has no rows of.

    A table may be older than some expansions of its space. A candidate is left out where a row is
    missing at some width of its stage, and another candidate with another expansion has all of
    its rows. Of any other candidate the rows must be measured.
    """
    stages = []
    for index, stage in enumerate(space.stages):
        if stage.fixed is not None:
            stages.append(stage)
            continue
        kept = {}
        for role in ROLES:
            candidates = stage.candidates(role)
            known = [block for block in candidates if _has_rows(space, index, block, table)]
            alike = {family(block) for block in known}
            # Candidates without such another one stay, so that the error names their rows.
            kept[role] = tuple(
                block for block in candidates if block in known or family(block) not in alike
            )
        stages.append(replace(stage, local=kept["local"], global_=kept["global"]))
    return space.restricted(stages)


def _has_rows(space: Space, index: int, block: BlockSpec, table: LatencyTable) -> bool:
    """Return whether a table has the rows of a block at all widths of its stage."""
    shapes = [space.shape(index, width) for width in space.stages[index].widths]
    operations = [
        operation
        for shape in shapes
        if not misfit(block, shape)
        for operation in with_layout(Place.block(index, 0), block, shape)
    ]
    return not any(
        part.key not in table.unsupported
        for operation in operations
        for part in table.lacking(operation)
    )


def _argument(space: Space) -> str:
    """Return the value of --space for it: its name where that finds this file, else its path."""
    known = resources.names(resources.SPACES, "*.yaml").get(space.name)
    return space.name if not space.path or str(known) == space.path else space.path
