"""Precisions in which networks run on devices, and what they decide: file formats, table names.

A table holds figures of one precision. One that differs from what a device measures by default is a
table of its own, named after both, as `host-int8`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nas.errors import InputError

if TYPE_CHECKING:
    from nas.convert.converter import Target
    from nas.devices.info import DeviceInfo

Precision = Literal["float32", "float16", "int8"]
"""Precisions of weights and activations that `--precision` takes."""
DEFAULT = "float32"
"""Precision whose tables bear the name of the device alone."""


def table_name(device: str, precision: str | None) -> str:
    """Return the name of a device's table of a precision; None is what the device has by default."""
    return device if precision in (None, DEFAULT) else f"{device}-{precision}"


def device_of(table: DeviceInfo) -> tuple[str, str | None]:
    """Return the device of a table and the precision to ask it for; inverse of `table_name`."""
    return split_name(table.name, table.precision)


def split_name(name: str, precision: str) -> tuple[str, str | None]:
    """Return the device and the precision that the name of a table with that precision states."""
    device = name.removesuffix(f"-{precision}")
    return device, None if device == name else precision


def device_options(table: DeviceInfo) -> list[str]:
    """Return the options of `nas profile` that name a table's device and its precision."""
    device, precision = device_of(table)
    return ["--device", device, *(["--precision", precision] if precision else [])]


def litert_target(precision: str | None) -> Target:
    """Return what chains are converted to where LiteRT runs them in a precision.

    A GPU takes float32 files and computes in float16 itself.
    """
    from nas.convert.converter import LITERT, LITERT_INT8

    return LITERT_INT8 if precision == "int8" else LITERT


def check_precision(asked: str | None, where: str, available: tuple[str, ...]) -> None:
    """Raise InputError for a precision that is not available.

    Args:
        asked: the precision, or None for that of the device.
        where: the device and its unit, for the message.
        available: precisions that it has.
    """
    if asked not in (None, *available):
        raise InputError(
            f"--precision: is not available on {where} (got {asked}, expected"
            f" {' or '.join(available)})"
        )
