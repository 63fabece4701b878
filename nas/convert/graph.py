"""Digest what a module computes, so that `converter` finds a converted file by its content.

A converted file depends on the operations that build the module and run it, not on the files of its
code. So the module is built and run once on the meta device, which has shapes and no values. That
takes milliseconds where converting takes seconds. Every operation that torch dispatches meanwhile
is recorded: its name, its numbers, and the shapes and types of the tensors that it reads. Another
activation, kernel or constant changes the record. A comment, a renamed variable or a moved file
does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_PLAIN = (
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
"""Types of arguments whose `repr` is their value, equal in every process."""
_LITERALS = (torch.tensor, torch.as_tensor, torch.scalar_tensor)
"""Functions that make tensors of values in Python, which the meta device would drop."""


def graph_digest(build: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]]) -> str:
    """Return the SHA-256 of building a module and of running it on inputs of these shapes.

    It is equal in every process with this version of torch. Weights count only by the operations
    that initialise them.

    Args:
        build: makes the module.
        shapes: of the inputs, with batch.

    Raises:
        Exception: whatever building or running the module raises; then it cannot be converted
            either.
    """
    try:
        return _digest(build, shapes, torch.device("meta"))
    # A block of another package may raise anything where it needs values (`.item()`, NumPy). The
    # CPU has values, so the block runs there.
    except Exception:
        return _digest(build, shapes, torch.device("cpu"))


def _digest(
    build: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> str:
    """Return the digest by running on one device, in eval mode and without gradients."""
    record = _Record()
    # `fork_rng` keeps the caller's random state: initialising weights draws from it.
    with device, torch.no_grad(), torch.random.fork_rng(devices=[]), _Literals(record), record:
        module = build().eval()
        record.lines.append("run")
        module(*(torch.zeros(shape) for shape in shapes))
    return hashlib.sha256("\n".join(record.lines).encode()).hexdigest()


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Mode that records every operation which torch dispatches while it is active.

    Attributes:
        lines: the record, one line per operation.
        _numbers: numbers of the tensors in order of appearance, by `id`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []
        self._numbers: dict[int, int] = {}
        # The tensors are kept alive: a new one could get the `id` of one that was deleted.
        self._kept: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = ", ".join(
            [
                *map(self._text, args),
                *(f"{name}={self._text(kwargs[name])}" for name in sorted(kwargs)),
            ]
        )
        result = func(*args, **kwargs)
        self.lines.append(f"{self._text(result, made=True)} = {func}({given})")
        return result

    def _text(self, value: Any, made: bool = False) -> str:
        """Return an argument as text without addresses; `made` for an operation's own result."""
        if isinstance(value, Tensor):
            return self._tensor(value, made)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self._text(each, made) for each in value)}]"
        # Other objects, such as random generators, say nothing of what is computed; their repr has
        # an address.
        return repr(value) if value is None or isinstance(value, _PLAIN) else type(value).__name__

    def _tensor(self, tensor: Tensor, made: bool) -> str:
        """Return a tensor's number, with type, shape and a constant's hash where it is new."""
        # Numbers in order of appearance name the edges of the graph. Addresses would differ in
        # every process.
        known = self._numbers.get(id(tensor))
        if known is not None:
            return f"%{known}"
        number = self._numbers[id(tensor)] = len(self._numbers)
        self._kept.append(tensor)
        text = f"%{number}: {tensor.dtype}{list(tensor.shape)}"
        if made or isinstance(tensor, nn.Parameter) or tensor.device.type == "meta":
            return text
        # A constant that no operation made: from NumPy, or from a file.
        return f"{text} {_values(tensor.detach().reshape(-1).view(torch.uint8).numpy())}"


class _Literals(TorchFunctionMode):
    """Mode that records the values from which tensors are made in Python."""

    def __init__(self, record: _Record) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LITERALS:
            data = args[0] if args else kwargs.get("data")
            if not isinstance(data, Tensor):
                self._record.lines.append(f"values {_values(np.asarray(data))}")
        return func(*args, **kwargs)


def _values(array: NDArray[Any]) -> str:
    """Return type, shape and hash of an array's values."""
    # The bytes of an object array are addresses.
    text = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return f"{array.dtype}{list(array.shape)} {hashlib.sha256(text).hexdigest()}"
