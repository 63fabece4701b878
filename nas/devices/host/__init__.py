"""The computer that nas runs on, as a kind of device: LiteRT on its cores (`--device host`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.devices.kinds import Connected, DeviceKind, Opening, Settings
from nas.devices.precision import check_precision
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.devices.base import Device

HOST = "host"
"""Name of the computer itself."""
PRECISIONS = ("float32", "int8")
"""Precisions that LiteRT's CPU kernels have in every build."""


class HostKind(DeviceKind):
    """This computer, which is always connected."""

    name = "litert-host"
    fixed_names = (HOST,)
    units = ("cpu",)
    file_suffixes = (".tflite", ".onnx")
    measures_exports = True

    def connected(self) -> list[Connected]:
        return [Connected(HOST, self.name)]

    def open(self, name: str, settings: Settings, opening: Opening) -> list[Device]:
        from nas.devices.host.device import Host

        if settings.unit not in (None, *self.units):
            raise InputError(
                f"--unit: is not available on the host (got {settings.unit}, expected"
                f" {' or '.join(self.units)})"
            )
        settings.refuse("the host", "affinity", "tool")
        check_precision(settings.precision, "the host", PRECISIONS)
        if settings.precision is None:
            return [Host(settings.threads or 1)]
        return [Host(settings.threads or 1, precision=settings.precision)]


KIND = HostKind()
