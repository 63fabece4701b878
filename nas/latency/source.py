"""What names the operations that a bench measures, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from nas.space import Operation


class Source(Protocol):
    """What names the operations to measure."""

    def next(self) -> Operation | None:
        """The next one, or None."""
        ...

    def found(self, operation: Operation, ms: float | None) -> None:
        """What came of one that was named; None where it failed."""
        ...

    def back(self, operation: Operation) -> None:
        """One that was named will not be measured by whoever asked; somebody else may."""
        ...

    def most(self) -> int:
        """How many can still be named."""
        ...


class Listed:
    """A source that names each of these once."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._left = deque(operations)

    def next(self) -> Operation | None:
        return self._left.popleft() if self._left else None

    def found(self, operation: Operation, ms: float | None) -> None:
        """Nothing follows from it."""

    def back(self, operation: Operation) -> None:
        self._left.appendleft(operation)

    def most(self) -> int:
        return len(self._left)
