"""`DeviceKind`, the base of a way to reach devices, and KINDS, the registry of all of them.

`nas.devices` lists and opens devices through it, `nas.devices.phones` validates `phone.yaml` by it,
and bundles, checks and reports ask a kind what its devices run. Imports no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nas import plugins
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.convert.converter import Converter, Target
    from nas.devices.base import Device
    from nas.devices.phones import Phone


@dataclass(frozen=True)
class Settings:
    """Settings of a device; None leaves one to the device's phone.yaml.

    Attributes:
        unit: compute unit: cpu or gpu on an Android phone; all, cpu_and_ne, cpu_and_gpu or cpu_only
            with Core ML.
        threads: CPU threads.
        affinity: cores of an Android phone, as a hexadecimal mask for `taskset`; every core if
            empty.
        tool: `benchmark_model` for Android phones, instead of LiteRT's release.
        precision: of weights and activations: float32, float16 or int8.
    """

    unit: str | None = None
    threads: int | None = None
    affinity: str | None = None
    tool: Path | None = None
    precision: str | None = None

    def refuse(self, device: str, *names: str) -> None:
        """Raise InputError where one of these is set, which the device does not have.

        Args:
            device: name, for the message.
            names: attributes of this class.
        """
        for name in names:
            if getattr(self, name) is not None:
                option = "--benchmark-model" if name == "tool" else f"--{name}"
                raise InputError(f"{option}: has no effect on {device}. Fix: leave out {option}")


@dataclass(frozen=True)
class ConnectedPhone:
    """A single phone that can be reached, with its state.

    Attributes:
        serial: serial number, or address where it is connected over the network.
        model: as it reports it; `ro.product.model` of Android.
        soc: the chip; `ro.soc.model` of Android.
        os: version and build.
        battery: charge in percent; None where unknown.
        thermal: thermal state: none, light, moderate, severe, ...
        device: known name (`phones()`), or None.
        name: what `--device` takes for it and others of its model: `device`, or a name made from
            the model.
        problem: why it cannot be used, and the remedy; the other fields are empty then.
    """

    serial: str
    model: str = ""
    soc: str = ""
    os: str = ""
    battery: int | None = None
    thermal: str | None = None
    device: str | None = None
    name: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Connected:
    """A device that is connected here.

    Attributes:
        name: what `--device` takes.
        kind: as in `device.yaml`, or the package that provides the device.
        units: phones of this name, with their state.
    """

    name: str
    kind: str
    units: tuple[ConnectedPhone, ...] = ()


@dataclass(frozen=True)
class Opening:
    """What a kind gets to open devices with, besides their settings.

    Attributes:
        phone: the phone.yaml of the name; None where there is none.
        converter: returns the converter to LiteRT files that all devices of one profile share. It
            is made at the first call and closed by the caller of `open`.
        say: is called with what the user should know while a device waits.
    """

    phone: Phone | None
    converter: Callable[[], Converter]
    say: Callable[[str], None] = lambda _: None


Entry = dict[str, Any]
"""Plain data of a bundle's plan or results."""


class BundlePrograms(ABC):
    """What a bundle holds besides its files, so that a machine without nas measures them.

    Life cycle: `device` and `begin` are called before anything is converted, `finish` once all
    files are there, and `results` when the folder is back home.

    Attributes:
        command: what measures the bundle there, for messages.
        files: names that `finish` writes.
    """

    command: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def device(self, phone: Phone | None, settings: Settings) -> Entry:
        """Return further fields of the plan's device: how the files are to be measured.

        Raises:
            InputError: when the settings do not fit.
        """

    @abstractmethod
    def begin(self, folder: Path, device: Entry, settings: Settings) -> None:
        """Write what does not depend on the files, and add what it is to the plan's device.

        Raises:
            NasError: when something is missing that cannot be fetched.
        """

    @abstractmethod
    def finish(self, folder: Path, plan: Entry) -> None:
        """Write the programs and what they read."""

    @abstractmethod
    def results(self, folder: Path, plan: Entry) -> list[Entry]:
        """Return the lines of the bundle's results, the header first; empty without any.

        Raises:
            InputError: for damaged results, or those of another bundle.
        """


@dataclass(frozen=True)
class BundleRecipe:
    """What a bundle of a kind holds and how it is measured, on a machine that has the device.

    Attributes:
        target: what the chains are converted to.
        copies: number of copies of an operation in a stack.
        description: of a device without a phone.yaml.
        how: instructions for the README of the bundle.
        standalone: whether `run.py` measures it, which needs no nas on that machine. Otherwise `nas
            profile --run` opens the device there.
        bound: maximum relative deviation of the reference from its first time.
        seconds: that measuring a file takes, for the README.
        by_precision: what the chains are converted to where a precision is asked for.
        programs: what measures it elsewhere without nas, beside `run.py`; None for nothing.
    """

    target: Target
    copies: int
    description: str
    how: str
    standalone: bool
    bound: float
    seconds: float = 4.0
    by_precision: Mapping[str, Target] = field(default_factory=dict)
    programs: BundlePrograms | None = None


class DeviceKind(ABC):
    """Base of one way to reach devices, as adb, Core ML or a farm. KINDS has one object per kind.

    Life cycle, as the commands call it:

    1. Importing the kind is cheap: every `phone.yaml` that is read asks its kind for `units`. What
       reaches devices is imported inside the methods.
    2. `nas devices` calls `connected` of every kind, and `unlisted` for a note to the user.
    3. `--device NAME` looks for the kind of the device: one of ours with NAME in its `fixed_names`,
       then the kind that the phone.yaml of NAME states, then the first kind whose `has(NAME)` is
       true. Kinds of other packages are asked last.
    4. `open` is called once with the settings of the command. It returns the devices of the name,
       which measure side by side: several units of one model share the work. The caller closes
       them; see `nas.devices.Device` for their life cycle.
    5. `bundle_recipe` is called by `nas profile --bundle`, `--run` and `--merge`.

    What to copy: `nas.devices.host` is the smallest kind, `nas.devices.android` one with phones
    behind cables. `nas.testing.devices.check_device_kind` tests a kind. A package names its object
    as an entry point of the group `nas.device_kinds`, with the name of the kind.

    Attributes:
        name: of the kind, as in the registry, `phone.yaml` and the `device.yaml` of its tables.
        fixed_names: names of devices that exist without a phone.yaml and without a cable.
        units: compute units that `compute_unit` in phone.yaml and `--unit` may name.
        phone_files: whether a phone.yaml may state this kind.
        export_target: target of `nas export` that makes the files for these devices.
        file_suffixes: suffixes of the network files that `measure` runs, for `nas check FILE`.
        measures_exports: whether `measure` runs such a file as it is, for `nas check RUN`.
    """

    name: ClassVar[str]
    fixed_names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    phone_files: bool = False
    export_target: str = "litert"
    file_suffixes: tuple[str, ...] = ()
    measures_exports: bool = False

    @abstractmethod
    def connected(self) -> list[Connected]:
        """Return the devices of this kind that are connected here.

        Empty where nothing can be listed: it raises no error for that.
        """

    def unlisted(self) -> str:
        """Return why connected devices cannot be listed here, with the remedy; by default ""."""
        return ""

    def has(self, name: str) -> bool:
        """Return whether a device of this kind has the name, or a phone the serial number.

        It is asked only for names without a phone.yaml. By default it looks at `connected`.
        """
        if name in self.fixed_names:
            return True
        return any(
            name == each.name or name in [unit.serial for unit in each.units]
            for each in self.connected()
        )

    @abstractmethod
    def open(self, name: str, settings: Settings, opening: Opening) -> list[Device]:
        """Return the devices of a name, ready to measure.

        Raises:
            InputError: when the device is not connected, or the settings do not fit.
            NasError: when the device cannot be used.
        """

    def bundle_recipe(self) -> BundleRecipe | None:
        """Return how bundles for this kind are made and measured; by default None.

        Without a recipe `nas profile --bundle` makes a bundle for a board of the device's name.
        """
        return None


KINDS: plugins.Registry[DeviceKind] = plugins.Registry(
    plugins.DEVICE_KINDS,
    {
        "litert-host": "nas.devices.host:KIND",
        "litert-android": "nas.devices.android:KIND",
        "coreml": "nas.devices.coreml:KIND",
        "litert-board": "nas.devices.board:KIND",
    },
    kind="nas.devices.kinds:DeviceKind",
)
"""Kinds by the name in `phone.yaml` and `device.yaml`, in the order in which they are asked.

A further kind is one file, named here or by an entry point of another package.
"""


def kind_of_fixed_name(name: str) -> DeviceKind | None:
    """Return the kind of ours that has the name among its `fixed_names`, or None.

    Kinds of other packages are not imported for it.
    """
    for kind in map(KINDS.__getitem__, KINDS.ours):
        if name in kind.fixed_names:
            return kind
    return None
