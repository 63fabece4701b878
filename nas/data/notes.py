"""Notes of `nas.data` for people, on stderr, and the words that they share. Imports no library."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from nas.display import printable

_SHOWN = 3
"""Maximum number of names in a message."""


def note(text: str) -> None:
    """Print a line for the user about the data on stderr.

    Of the processes of a distributed training, which all read the same data, the first one prints.
    """
    if os.environ.get("RANK", "0") == "0":
        print(printable(text), file=sys.stderr, flush=True)


def shown(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: `1 image`, `2 classes`, `3 copies`."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith('s') else 's'}"
