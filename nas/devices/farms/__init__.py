"""Device farms: services that run the files of a bundle on real phones, as remote jobs.

`nas profile --run BUNDLE --through FARM` measures a bundle through one. A farm is one file here and
one worker in `workers`, which runs with the farm's own client library. FARMS is their registry.
"""

from __future__ import annotations

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from nas import plugins, resources
from nas.errors import InputError, NasError, nearest

Entry = dict[str, Any]
WORKERS = Path(__file__).with_name("workers")


class OverQuota(NasError):
    """The account may not submit more jobs now; those that were submitted go on."""


@dataclass(frozen=True)
class FarmDevice:
    """A device of a farm, as the farm describes it.

    Attributes:
        name: the farm's name for the model.
        os: system and version, as "Android 14".
        chip: in the farm's words; empty where it does not say.
        handle: what the worker needs to submit a job to it.
    """

    name: str
    os: str
    chip: str
    handle: Mapping[str, Any]


class Farm(ABC):
    """Base of a service that runs files on real phones.

    The client libraries pin versions that exclude those of other packages (protobuf). So each farm
    has a worker, a script without nas that runs in an environment of its own and answers JSON lines
    (`workers/loop.py`). Account and key come from the service's own configuration, which the client
    library reads there. They never pass through nas.

    Attributes:
        name: what `--through` takes.
        title: name of the service.
        module: of the client library.
        requirement: what pip installs for it.
        variable: environment variable with the Python that has the client library.
        worker: file in `workers`.
        kinds: kinds of bundles that it runs.
        units: compute units by `--unit`, in the words of the farm.
        terms: where costs and quotas are said, for the user before anything is submitted.
        account: remedy where the service does not know the user.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    requirement: ClassVar[str]
    variable: ClassVar[str]
    worker: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    units: ClassVar[Mapping[str, str]]
    terms: ClassVar[str]
    account: ClassVar[str]

    @abstractmethod
    def device(self, data: Entry) -> FarmDevice:
        """Return a device as the worker describes it."""

    @abstractmethod
    def runtime(self, unit: str, client_version: str) -> Entry:
        """Return the fields of a table's device file that say what runs the files on a unit.

        They are `runtime`, `runtime_version` and `precision`.
        """

    @abstractmethod
    def missed(self, unit: str, placement: Mapping[str, int]) -> bool:
        """Return whether no layer ran on the unit that was asked for.

        Such a figure is one of another unit and becomes no row.
        """

    def python(self) -> str:
        """Return the interpreter that has the client library. Raises InputError without one."""
        given = os.environ.get(self.variable)
        if given:
            if not os.access(given, os.X_OK):
                raise InputError(
                    f"{self.variable}: is not a Python that can be started (got {given})."
                    f" Fix: {self._install()}"
                )
            return given
        environment = self.environment()
        for program in (environment / "bin" / "python", environment / "Scripts" / "python.exe"):
            if program.is_file():
                return str(program)
        if find_spec(self.module) is not None:
            return sys.executable
        raise InputError(
            f"--through {self.name}: needs {self.requirement}, in an environment of its own since"
            f" its requirements differ from those of nas. Fix: {self._install()}"
        )

    def environment(self) -> Path:
        """Return the folder of the environment that is used where it exists."""
        return resources.cache_folder("farms") / self.name

    def pick(self, wanted: str, exact: bool, devices: list[FarmDevice]) -> FarmDevice:
        """Return the farm's device of a name, with its newest system.

        Args:
            wanted: the farm's own name where `exact`, else a name of ours, as galaxy-s24.
            exact: whether the user gave the farm's name.
            devices: of the farm.

        Raises:
            InputError: when the farm has no such device.
        """
        if exact:
            chosen = [each for each in devices if each.name.lower() == wanted.lower()]
        else:
            # Samsung Galaxy S24 is galaxy-s24, and iPhone 12 is iphone12.
            short = _squeezed(wanted)
            chosen = [each for each in devices if _squeezed(each.name).endswith(short)]
            # A shorter name is the plainer one: a maker more may be another model.
            shortest = min((len(each.name) for each in chosen), default=0)
            chosen = [each for each in chosen if len(each.name) == shortest]
        if chosen:
            return max(chosen, key=lambda each: [int(part) for part in re.findall(r"\d+", each.os)])
        raise InputError(
            f"--through {self.name}: {self.title} has no device '{wanted}'"
            f"{nearest(wanted, {each.name for each in devices})}. Fix: --through"
            f" '{self.name}:NAME' with one of these names"
        )

    def _install(self) -> str:
        folder = self.environment()
        return (
            f"python -m venv {folder} && {folder / 'bin' / 'pip'} install {self.requirement}, or set"
            f" {self.variable} to a Python that has it"
        )


def squeezed_chip(text: str) -> str:
    """Return a chip's name for comparison: without maker, case, blanks and hyphens."""
    return _squeezed(re.sub(r"qualcomm|apple|®|™|mobile|for.galaxy", "", text, flags=re.IGNORECASE))


def _squeezed(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower())


FARMS: plugins.Registry[Farm] = plugins.Registry(
    plugins.FARMS,
    {
        "qai-hub": "nas.devices.farms.qai_hub:FARM",
        "runlocal": "nas.devices.farms.runlocal:FARM",
    },
    kind="nas.devices.farms:Farm",
)
"""Farms by the name in `--through`. A further farm is one file and a worker, of ours or of another
package (entry points of the group `nas.farms`)."""


def farm_of(through: str) -> tuple[Farm, str]:
    """Return the farm of `FARM[:DEVICE]` and the farm's name of the device, empty without one.

    Raises:
        InputError: for an unknown farm.
    """
    name, _, device = through.partition(":")
    if name not in FARMS:
        raise InputError(f"--through: unknown farm '{name}'{nearest(name, FARMS)}")
    return FARMS[name], device.strip()
