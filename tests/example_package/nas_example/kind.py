"""A kind of device: a rack of phones. These compute their timings; one's own would reach them."""

from __future__ import annotations

from nas.devices import Connected, ConnectedPhone, Device, DeviceKind, Opening, Settings
from nas.errors import InputError


class RackKind(DeviceKind):
    """Two phones of one model in a rack, and any that a phone.yaml of the kind `rack` describes."""

    name = "rack"
    units = ("cpu",)
    phone_files = True

    def connected(self) -> list[Connected]:
        phones = [ConnectedPhone(serial, model="Formula", soc="none") for serial in ("R1", "R2")]
        return [Connected("rack-phone", self.name, tuple(phones))]

    def open(self, name: str, settings: Settings, opening: Opening) -> list[Device]:
        # Heavy imports stand here: the kind is imported whenever devices are listed.
        from nas_example.device import Formula

        if settings.unit not in (None, *self.units):
            raise InputError(
                f"--unit: is not available in the rack (got {settings.unit}, expected cpu)"
            )
        (phones,) = self.connected()
        serials = [unit.serial for unit in phones.units if name in (unit.serial, phones.name)]
        if opening.phone is not None:
            serials = [unit.serial for unit in phones.units]
        table = opening.phone.name if opening.phone else phones.name
        return [Formula(settings.threads or 1, table, self.name) for _ in serials]


KIND = RackKind()
