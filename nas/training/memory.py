"""What to say when a batch does not fit into memory."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from nas.errors import NasError

_MESSAGES = ("out of memory", "not enough memory", "DefaultCPUAllocator: can't allocate")
"""Of the RuntimeErrors that allocators raise; CUDA's has a class of its own."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def largest_fit(attempt: Callable[[int], None], size: int) -> int:
    """The first of size / 2, size / 4, ... images that `attempt` gets through, 0 where not even one does."""
    while size := size // 2:
        gc.collect()  # what the failed attempt held, where cycles keep it
        torch.cuda.empty_cache()
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return size
    return 0


def too_large(where: str, images: int, fit: int, batch: int, processes: int) -> NasError:
    """The error for a process that could not take `images` at once of a `batch` over all processes, but `fit`."""
    if not fit:
        return NasError(f"{where}: out of memory with a single image; take a smaller --resolution or a smaller space")
    accumulate = -(-batch // (fit * processes))
    return NasError(
        f"{where}: out of memory with {images} images at once, {fit} fit: give --batch {fit * processes}, or "
        f"--accumulate {accumulate} to keep the batch of {batch}"
    )
