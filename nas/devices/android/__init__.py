"""Android phones as a kind of device: LiteRT's benchmark_model behind adb."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nas.devices.kinds import (
    BundleRecipe,
    Connected,
    ConnectedPhone,
    DeviceKind,
    Opening,
    Settings,
)
from nas.errors import InputError, NasError
from nas.extras import need

if TYPE_CHECKING:
    from nas.devices.base import Device


def core_mask(text: str, threads: int) -> str:
    """Return a hexadecimal mask of cores as tables state it; empty for all cores.

    0f, f and F are the same cores, and so the same table's.

    Raises:
        InputError: for a malformed mask, or one with fewer cores than threads.
    """
    if not text:
        return ""
    if not re.fullmatch(r"[0-9a-f]{1,256}", text, re.IGNORECASE):
        raise InputError(
            f"--affinity: is not a hexadecimal mask of cores (got '{text[:40]}', expected for example"
            " f0 for cores 4 to 7)"
        )
    mask = int(text, 16)
    if mask.bit_count() < threads:
        raise InputError(
            f"--threads: the affinity mask {mask:x} has fewer cores than threads (got {threads},"
            f" expected at most {mask.bit_count()}). Fix: a mask with one core per thread, as"
            " --affinity f0 for 4 threads"
        )
    return f"{mask:x}"


ON_A_PHONE = """\
Measure it on the phone, through adb on any computer or in the shell of a device farm:

    adb push FOLDER /data/local/tmp/BUNDLE
    adb shell sh /data/local/tmp/BUNDLE/run.sh
    adb pull /data/local/tmp/BUNDLE/results FOLDER/

The phone stays awake, cool and otherwise idle meanwhile. nas, Python and root are not needed. A
second call tries again what failed. With nas and the phone at hand, `nas profile --run FOLDER` does
the same.

Without the phone, on one of the cloud: nas profile --run FOLDER --through qai-hub"""


class AndroidKind(DeviceKind):
    """Phones that adb sees, by cable or over the network."""

    name = "litert-android"
    units = ("cpu", "gpu")
    phone_files = True
    file_suffixes = (".tflite",)
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
        except NasError as error:
            return str(error)
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
            precision=settings.precision,
        )

    def bundle_recipe(self) -> BundleRecipe:
        from nas.convert.converter import LITERT, LITERT_INT8
        from nas.devices.android.carried import PROGRAMS
        from nas.devices.base import Device
        from nas.devices.board.runner.measuring import BOUND

        return BundleRecipe(
            target=LITERT,
            copies=Device.copies,
            description="an Android phone",
            how=ON_A_PHONE,
            standalone=False,
            bound=BOUND,
            programs=PROGRAMS,
            by_precision={"float32": LITERT, "float16": LITERT, "int8": LITERT_INT8},
        )


KIND = AndroidKind()
