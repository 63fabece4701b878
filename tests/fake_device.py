"""A device that computes on the CPU and refuses what a GPU would: operands on another device.

A program calls `install` once, which gives torch the device `fake`; it lasts for the process. Results are
those of the CPU to the bit. `transfers` counts the copies for which the host of a GPU would wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

transfers: Counter[str] = Counter()
"""Number of copies that a host waits for: `to device` and `to host`."""


class MixedDevices(RuntimeError):
    """An operation got tensors of two devices, which no GPU would compute."""


class FakeTensor(Tensor):
    """A tensor that says it is on `fake`; its values are in a tensor on the CPU, `values`."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> FakeTensor:
        made: FakeTensor = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="fake:0",
        )
        made.values = values
        return made

    def __repr__(self) -> str:
        return f"FakeTensor({self.values!r})"

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: FakeTensor) -> None:
        # torch would exchange sizes and strides alone.
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.values = value.values

    def tolist(self) -> Any:
        """Return the values as numbers; torch has this for its own class alone."""
        transfers["to host"] += 1
        return self.values.tolist()

    def untyped_storage(self) -> Any:
        """Return the storage of the values, by which safetensors finds tensors that share one."""
        return self.values.untyped_storage()

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        _check(func, args, kwargs)
        device = kwargs.get("device")
        to_host = device is not None and torch.device(device).type == "cpu"
        if device is not None:
            kwargs["device"] = "cpu"
        output = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if to_host or func is aten._local_scalar_dense.default:
            transfers["to host"] += 1
            return output
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            transfers["to host"] += 1
            return args[0]
        if func is aten.copy_.default and not isinstance(args[1], FakeTensor):
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            transfers["to device"] += waits
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_on_device, output))


def _values(each: Any) -> Any:
    return each.values if isinstance(each, FakeTensor) else each


def _on_device(each: Any) -> Any:
    return FakeTensor(each) if type(each) is Tensor else each


def _check(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise MixedDevices where an operand is on the CPU."""
    # Copies go from device to device. A GPU takes indices from the host, too.
    if func in (aten.copy_.default, aten._to_copy.default):
        return
    name = str(func)
    if name.startswith("aten.index.") or "index_put" in name:
        args = [args[0], *args[2:]]
    # Pointwise operations take a single number from the host, operations on lists do not.
    numbers = not ("_foreach" in name or "_fused" in name)
    for each in tree_leaves((args, dict(kwargs))):
        on_host = isinstance(each, Tensor) and not isinstance(each, FakeTensor)
        if on_host and (each.dim() or not numbers):
            raise MixedDevices(f"{func}: an operand {tuple(each.shape)} is on {each.device}")


class _Device:
    """What torch asks of a device's module."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Nothing here draws random numbers on the device."""


def install() -> None:
    """Give torch the device `fake`."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("fake", backend_module=_Device())
    makers: dict[str, Callable[..., Tensor]] = {
        "empty.memory_format": torch.empty,
        "empty_strided": torch.empty_strided,
        "arange.start_step": torch.arange,
    }
    for name, make in makers.items():
        torch.library.impl(f"aten::{name}", "privateuseone")(_maker(make))
    torch.library.impl("aten::_copy_from", "privateuseone")(_copy_from)


def _maker(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*size: Any, **options: Any) -> Tensor:
        options = {name: value for name, value in options.items() if name != "layout"}
        return FakeTensor(make(*size, **{**options, "device": "cpu", "pin_memory": False}))

    return made


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy as `torch.tensor(numbers, device="fake")` does, which passes by `__torch_dispatch__`."""
    transfers["to device"] += not non_blocking
    _values(target).copy_(_values(source))
    return target
