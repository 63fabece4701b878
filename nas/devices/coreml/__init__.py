"""iPhones and the Mac that nas runs on as a kind of device: Core ML through coremltools."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from nas.devices.kinds import BundleRecipe, Connected, DeviceKind, Opening, Settings
from nas.devices.precision import check_precision, table_name
from nas.errors import InputError, NasError

if TYPE_CHECKING:
    from nas.devices.base import Device

MAC = "mac"
"""Name of the computer itself."""
PRECISIONS = ("float16",)
"""Precisions of activations that ML programs of this project compute in."""
COPIES = 9
"""Number of copies in a stack."""
DRIFT_BOUND = 0.15
"""Maximum relative drift of a bundle's reference; its few cold predictions scatter more."""
FILE_S = 60.0
"""Seconds that measuring a file on a phone takes, where each of some predictions goes over USB."""
ON_A_MAC = """\
Measure it on a Mac with Xcode, with the phone connected, unlocked and in Developer Mode:

    pip install '.[coreml]'          # in a checkout of nas
    NAS_APPLE_TEAM=<the team of your Apple developer account> nas profile --run FOLDER

Without a Mac, on an iPhone of the cloud: nas profile --run FOLDER --through runlocal"""


class CoreMLKind(DeviceKind):
    """iPhones that are connected to this Mac, and the Mac itself."""

    name = "coreml"
    fixed_names = (MAC,)
    units = ("all", "cpu_and_ne", "cpu_and_gpu", "cpu_only")
    phone_files = True
    export_target = "coreml"
    file_suffixes = (".mlpackage",)
    # Exported files take images, which coremltools' benchmark does not feed.
    measures_exports = False

    def connected(self) -> list[Connected]:
        """Return the connected iPhones that a phone.yaml describes."""
        if platform.system() != "Darwin":
            return []
        from nas.devices.coreml.device import connected_phones
        from nas.devices.phones import recognise

        names: list[str] = []
        with suppress(NasError):
            for connected in connected_phones():
                phone = recognise(self.name, "", connected.product)
                names += [phone.name] if phone else []
        return [Connected(name, self.name) for name in dict.fromkeys(names)]

    def has(self, name: str) -> bool:
        # Every other device of this kind has a phone.yaml, so Xcode need not be asked.
        return name in self.fixed_names

    def open(self, name: str, settings: Settings, opening: Opening) -> list[Device]:
        from nas.devices.coreml.device import CoreML, mac

        if settings.unit not in (None, *self.units):
            raise InputError(
                f"--unit: is not a unit of Core ML (got {settings.unit}, expected"
                f" one of {', '.join(self.units)})"
            )
        settings.refuse("Core ML", "threads", "affinity", "tool")
        check_precision(settings.precision, "Core ML", PRECISIONS)
        phone = opening.phone or mac()
        if settings.unit is not None:
            phone = replace(phone, compute_unit=settings.unit)
        return [CoreML(phone, table=table_name(phone.name, settings.precision))]

    def bundle_recipe(self) -> BundleRecipe:
        from nas.convert.converter import COREML

        return BundleRecipe(
            target=COREML,
            copies=COPIES,
            description="a Mac",
            how=ON_A_MAC,
            standalone=False,
            bound=DRIFT_BOUND,
            seconds=FILE_S,
            by_precision={"float16": COREML},
        )


KIND = CoreMLKind()
