"""Memory that this process may use. `nas.data.load_data` chooses a store by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Memory limits of a container, by cgroups of versions 2 and 1."""


def usable_memory(limits: Sequence[Path] = _LIMITS) -> int | None:
    """Return the bytes of memory of this machine or container; None where that is not known.

    It does not depend on what is free at the moment.
    """
    sizes = []
    # Windows has no sysconf.
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in limits:
        try:
            sizes.append(int(path.read_text().strip()))
        except (OSError, ValueError):
            # There is no such file, or it says `max`.
            continue
    return min((size for size in sizes if size > 0), default=None)
