"""A device that answers from the results of a bundle, for `nas.latency.bundle.merge_bundle`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nas.convert.chain import Chain, OperationFailed
from nas.devices.base import Device, Timing
from nas.devices.board.runner.errors import BundleError, NotWritten
from nas.devices.board.runner.plan import read_plan
from nas.devices.board.runner.results import RESULTS_FILE, read_results
from nas.devices.info import DeviceInfo
from nas.devices.kinds import KINDS, BundleRecipe
from nas.errors import InputError, NasError
from nas.validation import explain


@contextmanager
def bundle_errors() -> Iterator[None]:
    """Turn errors of the stand-alone `runner` into those of nas, within the context."""
    try:
        yield
    except NotWritten as error:
        raise NasError(str(error)) from error
    except BundleError as error:
        raise InputError(str(error)) from error


class Replay(Device):
    """The device that a bundle was run on, as its results describe it.

    Profile and check use it as a connected device. So both ways to a table share their code.

    Args:
        folder: of the bundle.

    Raises:
        InputError: for a damaged plan or results, or those of another bundle.
        NasError: when the bundle was not run, or not to its end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with bundle_errors():
            self.plan = read_plan(folder)
            entries = self._entries()
        self.copies = self.plan["copies"]
        # Entries by digest: chains that could not be converted, then measured ones. A later entry
        # of a file replaces an earlier one: a file is measured again after a drift.
        self._known = {entry["digest"]: entry for entry in self.plan["files"] if "failed" in entry}
        self._known |= {entry["digest"]: entry for entry in entries if _is_outcome(entry)}
        self._drifted = {digest for entry in entries for digest in entry.get("drifted", ())}
        self._digests = {entry["digest"] for entry in self.plan["files"]}
        left = len(self._digests - self._known.keys())
        if left:
            lost = [entry["lost"] for entry in entries if "lost" in entry]
            reason = f" ({len(lost)} of them: {lost[0]})" if lost else ""
            raise NasError(
                f"{folder}: {left} of {len(self._digests)} files are not measured{reason}. Fix: on"
                f" the machine that measures, {self._command()}"
            )
        if not entries:
            raise InputError(f"{folder}: has no file to measure. Fix: write the bundle again")
        self._info = self._device_info(entries[0]["device"])
        if self._info.name != self.plan["device"]["name"]:
            raise InputError(
                f"{folder / RESULTS_FILE}:1: is of another device (got"
                f" {self._info.name!r}, expected {self.plan['device']['name']!r}). Fix: replace it by"
                " this bundle's results"
            )

    def has(self, chain: Chain) -> bool:
        """Return whether the bundle was written with this chain."""
        return chain.digest() in self._digests

    def info(self) -> DeviceInfo:
        return self._info

    def prepare(self, chain: Chain) -> Future[Path]:
        """Return a path whose name is the chain's digest, by which `measure` finds the result.

        The path does not exist. Raises InputError for a chain that the bundle does not have.
        """
        if not self.has(chain):
            raise InputError(
                f"{self.folder}: {chain} is missing, the bundle was written for other operations."
                " Fix: write another bundle and run it"
            )
        future: Future[Path] = Future()
        future.set_result(self.folder / "replay" / chain.digest())
        return future

    def measure(self, artifact: Path) -> Timing:
        entry = self._known[artifact.name]
        if "failed" in entry:
            raise OperationFailed(entry["failed"])
        timing = entry["timing"]
        notes = {name: value for name, value in timing.get("notes", ())}
        if artifact.name in self._drifted:
            notes["note"] = "; ".join(filter(None, (notes.get("note"), "drift")))
        return Timing(
            timing["median_ms"],
            timing["p10_ms"],
            timing["p90_ms"],
            timing["runs"],
            notes=tuple(notes.items()),
        )

    def close(self) -> None:
        """Do nothing: no device was opened."""

    def _recipe(self) -> BundleRecipe | None:
        kind = KINDS.get(str(self.plan["device"]["kind"]))
        return kind.bundle_recipe() if kind else None

    def _entries(self) -> list[dict[str, Any]]:
        """Return the lines of the results, the header first."""
        recipe = self._recipe()
        if recipe is not None and recipe.programs is not None:
            return recipe.programs.results(self.folder, self.plan)
        return read_results(self.folder, self.plan)

    def _command(self) -> str:
        """Return the command that measures the rest of the bundle."""
        run = shlex.join(["nas", "profile", "--run", str(self.folder)])
        recipe = self._recipe()
        if recipe is not None and recipe.programs is not None:
            return f"{run}, or without nas: {recipe.programs.command}"
        standalone = recipe is not None and recipe.standalone
        return f"{run}, or without nas: python run.py" if standalone else run

    def _device_info(self, fields: dict[str, object]) -> DeviceInfo:
        try:
            return DeviceInfo(**fields)  # type: ignore[arg-type]
        except (ValidationError, TypeError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{self.folder / RESULTS_FILE}:1: device: {reason}") from None


def _is_outcome(entry: dict[str, Any]) -> bool:
    """Return whether a line tells how a file ran, rather than that something passing befell it."""
    return "digest" in entry and "lost" not in entry
