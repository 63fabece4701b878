"""The order of the tests: what takes long begins at once, on every worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def dealt(items: Sequence[Item], seconds: Callable[[Item], float], workers: int) -> list[Item]:
    """Return items so that each worker begins with its share of the long ones, the longest first.

    pytest-xdist gives each worker a contiguous part (`--dist worksteal`), and who is done takes from
    the end of another's. Items without seconds keep their order, since tests of one module share
    what its fixtures have made.

    Args:
        items: all tests, in the order in which they were collected.
        seconds: what a test takes; 0 where it need not go first.
        workers: number of processes among which the tests are split.
    """
    long = sorted((item for item in items if seconds(item)), key=seconds, reverse=True)
    short = [item for item in items if not seconds(item)]
    ordered: list[Item] = []
    for worker in range(workers):
        size = (len(items) - len(ordered)) // (workers - worker)
        # Later parts are the longer ones, so the one more that some get goes to the last workers.
        first = long[workers - 1 - worker :: workers]
        rest = size - len(first)
        ordered += [*first, *short[:rest]]
        short = short[rest:]
    return ordered
