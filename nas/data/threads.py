"""Threads that decode images, for the stores and for what looks through all masks."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_THREADS = 16
"""Maximum number of threads; Pillow decodes outside of Python's lock."""


def decoding_threads() -> int:
    """Return the number of threads to decode with: one per core that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return min(_THREADS, cores)


@contextmanager
def decoding_pool() -> Iterator[ThreadPoolExecutor]:
    """Yield threads to decode with. Pillow's warnings are silenced: they are counted as oddities."""
    with warnings.catch_warnings(), ThreadPoolExecutor(decoding_threads()) as pool:
        warnings.simplefilter("ignore")
        yield pool
