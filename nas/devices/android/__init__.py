"""Android phones as a kind of device: LiteRT's benchmark_model behind adb."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.devices.kinds import Connected, ConnectedPhone, DeviceKind, Opening, Settings
from nas.errors import NasError
from nas.extras import MissingExtra, need

if TYPE_CHECKING:
    from nas.devices.base import Device


class AndroidKind(DeviceKind):
    """Phones that adb sees, by cable or over the network."""

    name = "litert-android"
    units = ("cpu", "gpu")
    phone_files = True
    measures_exports = True

    def connected(self) -> list[Connected]:
        from nas.devices.android.discovery import connected_phones

        units: dict[str, list[ConnectedPhone]] = {}
        for unit in connected_phones():
            units.setdefault(unit.name or unit.serial, []).append(unit)
        return [Connected(name, self.name, tuple(each)) for name, each in units.items()]

    def unlisted(self) -> str:
        from nas.devices.android.adb import listing

        try:
            listing(start=False)
        except MissingExtra as error:
            return str(error)
        except NasError:
            # adb itself does not work: `nas profile` and `nas check` report that.
            return ""
        return ""

    def open(self, name: str, settings: Settings, opening: Opening) -> list[Device]:
        from nas.devices.android.discovery import open_android

        need(f"--device {name}", "android")
        return open_android(
            name,
            opening.converter(),
            unit=settings.unit,
            threads=settings.threads,
            affinity=settings.affinity,
            tool=settings.tool,
            warn=opening.say,
        )


KIND = AndroidKind()
