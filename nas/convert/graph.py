"""Names what a module computes, so that a converted file is found again by its content; `converter`
asks.

A converted file depends on the operations that build the module and run it, not on the files that
its code stands in. So the module is built and run once on the meta device, which has shapes and no
values and takes milliseconds where converting takes seconds, and every operation that torch
dispatches meanwhile is written down: its name, its numbers, and the shapes and types of the tensors
that it reads. Another activation, kernel or constant gives another record. A comment, a renamed
variable or a moved file does not.
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
_LITERALS = (torch.tensor, torch.as_tensor, torch.scalar_tensor)
"""Functions that make tensors of values in Python, which the meta device would drop."""


def graph_digest(build: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]]) -> str:
    """Return a name for what `build` builds and what that computes from inputs of these shapes.

    It is the same in every process with this version of torch. Weights do not count, but for how
    they are initialised.

    Raises:
        Exception: whatever building or running the module raises; then it cannot be converted
            either.
    """
    try:
        return _digest(build, shapes, torch.device("meta"))
    except Exception:  # code of any block, which may need values: `.item()`, or NumPy
        return _digest(build, shapes, torch.device("cpu"))


def _digest(
    build: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]], device: torch.device
) -> str:
    record = _Record()
    with device, torch.no_grad(), torch.random.fork_rng(devices=[]), _Literals(record), record:
        module = build().eval()
        record.lines.append("run")
        module(*(torch.zeros(shape) for shape in shapes))
    return hashlib.sha256("\n".join(record.lines).encode()).hexdigest()


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every operation that torch dispatches while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Tensor] = []  # so that no other tensor gets the id of one that is gone

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
        if isinstance(value, Tensor):
            return self._tensor(value, made)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self._text(each, made) for each in value)}]"
        # Other objects, such as random generators, say nothing of what is computed; their repr has
        # an address.
        return repr(value) if value is None or isinstance(value, _PLAIN) else type(value).__name__

    def _tensor(self, tensor: Tensor, made: bool) -> str:
        """Return the number of a tensor in order of appearance; where it is new, also its type,
        shape and source."""
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
    """Writes down the values that tensors are made of in Python."""

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
    text = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return f"{array.dtype}{list(array.shape)} {hashlib.sha256(text).hexdigest()}"
