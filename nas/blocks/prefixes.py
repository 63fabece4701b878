"""Prefixes of published tensor names by stage and block, for the layouts of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from nas.blocks.spec import Operation


def stage_prefixes(
    operations: Sequence[Operation], entry: str, block: str, stem: str = "stem", head: str = ""
) -> dict[str, str]:
    """Return the prefix of each operation's published tensor names, from templates.

    Args:
        operations: of a network. Stages and, in each of them, blocks are counted from 0. A change
            of layout counts as a block, so that those behind it shift.
        entry: template for the blocks that enter stages 1, 2 and so on, of `number` of the stage and
            `before`, the position before the stage where stages and entries alternate.
        block: template for the other blocks, of `number`, `stage` (the stage's position where
            stages and entries alternate) and `index`.
        stem, head: prefixes of both ends.
    """
    prefixes = {"stem": stem, "head": head}
    number = 0
    index = 0
    for operation in operations:
        if operation.name.endswith("_entry"):
            number += 1
            index = 0
            prefixes[operation.name] = entry.format(number=number, before=2 * number - 1)
        elif operation.name not in prefixes:
            prefixes[operation.name] = block.format(number=number, stage=2 * number, index=index)
            index += 1
    return prefixes
