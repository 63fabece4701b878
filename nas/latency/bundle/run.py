"""Measure the files of a bundle on the machine that has the device, or through a device farm."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas.convert.chain import Interrupted, OperationFailed
from nas.devices import opened
from nas.devices.base import Device
from nas.devices.board.replay import bundle_errors
from nas.devices.board.runner.errors import CannotRun, Ended
from nas.devices.board.runner.measuring import run, run_litert
from nas.devices.board.runner.plan import read_plan
from nas.devices.farms import farm_of
from nas.devices.farms.batch import run_batch
from nas.devices.kinds import (
    KINDS,
    BundleRecipe,
    Settings,
    kind_of_fixed_name,
)
from nas.devices.packed import unpacked
from nas.devices.phones import phones
from nas.devices.precision import DEFAULT, split_name
from nas.errors import InputError
from nas.latency.network_times import (
    Progress,
)


def run_bundle(
    folder: Path,
    progress: Progress = lambda *_: None,
    threads: int | None = None,
    *,
    unit: str | None = None,
    through: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Measure the files of a bundle that have no result yet, on this machine or through a farm.

    Args:
        folder: of the bundle.
        progress: is called before each file.
        threads: CPU threads of a board (default: those that the bundle was written for).
        unit: compute unit (default: the one that the bundle was written for).
        through: device farm, as FARM or FARM:DEVICE (default: this machine).
        say: is called with what the user should know before a farm gets anything.

    Returns:
        Counts of `files`, `measured`, `reused` and `failed` and `interrupted` ones, and of
        `drifted` ones on this machine.

    Raises:
        InputError: for a damaged bundle, results of another one, or a machine that lacks what it
            takes.
        NasError: when the disk is full.
        DeviceLost: when the phone is gone; what was measured is kept.
    """
    with bundle_errors():
        plan = read_plan(folder)
        kind = str(plan["device"]["kind"])
        recipe = _recipe(folder, kind)
        if through is not None:
            _without_effect("threads", threads, "in a device farm, which chooses them")
            farm, wanted = farm_of(through)
            return run_batch(folder, plan, farm, wanted, unit, progress, say)
        if recipe.standalone:
            if unit not in (None, *KINDS[kind].units):
                raise InputError(
                    f"--unit: is not a unit of {kind} devices (got {unit}, expected"
                    f" {' or '.join(KINDS[kind].units)})"
                )
            return run_litert(folder, progress, threads)
        _without_effect("threads", threads, f"on a bundle for {kind} devices, which states them")
        name, _ = _opened_as(plan)
        _check_reachable(name, kind)
        settings = _settings(plan)
        settings = replace(settings, unit=unit or settings.unit)
        with opened(name, settings) as (device, *_):
            # Plain JSON data: the results' header is written from it and compared with it.
            info = json.loads(json.dumps(device.info().to_dict()))
            return run(
                folder, plan, info, lambda path: _measure(device, path), progress, recipe.bound
            )


def _without_effect(option: str, value: object, where: str) -> None:
    """Raise InputError for an option that is given where it has no effect."""
    if value is not None:
        raise InputError(f"--{option}: has no effect {where}. Fix: leave out --{option}")


def _recipe(folder: Path, kind: str) -> BundleRecipe:
    """Return the recipe of a kind. Raises InputError where it is unknown here."""
    recipe = KINDS[kind].bundle_recipe() if kind in KINDS else None
    if recipe is None:
        raise InputError(
            f"{folder}: is a bundle for devices of the kind '{kind}', which is not installed here."
            " Fix: install the package that has it"
        )
    return recipe


def _settings(plan: dict[str, Any]) -> Settings:
    """Return the settings that a bundle was written for."""
    device = plan["device"]
    return Settings(
        unit=device.get("unit"),
        threads=device.get("threads"),
        affinity=device.get("affinity"),
        precision=_opened_as(plan)[1],
    )


def _opened_as(plan: dict[str, Any]) -> tuple[str, str | None]:
    """Return the device of a bundle and the precision that its name states."""
    return split_name(plan["device"]["name"], plan["device"].get("precision", DEFAULT))


def _check_reachable(name: str, kind: str) -> None:
    """Raise InputError unless this machine knows the name as a device of the kind."""
    phone = phones().get(name)
    fixed = kind_of_fixed_name(name)
    known = phone.kind if phone else fixed.name if fixed else None
    # A phone without a phone.yaml has the name that adb shows, or its serial number.
    if known == kind or (known is None and KINDS[kind].phone_files and KINDS[kind].has(name)):
        return
    wrong = "missing here" if known is None else f"of another kind (got {known}, expected {kind})"
    raise InputError(
        f"{name}: phone.yaml is {wrong}. Fix: copy it into latency_tables/{shlex.quote(name)} from"
        " the machine where the bundle was written"
    )


def _measure(device: Device, path: Path) -> dict[str, Any]:
    """Return a file's timing as plain data, with the board runner's own error."""
    try:
        with unpacked(path) as artifact:
            return asdict(device.measure(artifact))
    except Interrupted as error:
        raise Ended(str(error)) from error
    except OperationFailed as error:
        raise CannotRun(str(error)) from error
