"""Run a bundle through a farm: one remote job per file, all submitted before any is waited for.

`nas.latency.bundle` calls `run_batch`. The ids of jobs are in a journal beside the results, so that
the same command resumes: what was submitted is not submitted again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from nas.devices.board.runner.plan import check_file
from nas.devices.board.runner.results import Results
from nas.devices.farms import Entry, Farm, FarmDevice, OverQuota, squeezed_chip
from nas.devices.farms.client import Client, Gone, Refused, Unreachable
from nas.devices.packed import unpacked
from nas.devices.phones import phones
from nas.devices.precision import DEFAULT, split_name
from nas.errors import InputError, NasError
from nas.journals import append_text, read_entries

JOBS_FORMAT = "nas-farm-jobs-1"
POLL_S = 20.0
"""Seconds between two looks at the jobs; a job takes minutes."""
CHUNK = 32
"""Maximum number of jobs that one look asks for; they end about in the order of submission."""
TRIES = 3
"""Number of requests before a service counts as unreachable."""
ROUNDS = 2
"""Number of jobs for a file that fails, the last one beside a control."""

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def run_batch(
    folder: Path,
    plan: Entry,
    farm: Farm,
    wanted: str = "",
    unit: str | None = None,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
    poll_s: float | None = None,
) -> dict[str, int]:
    """Measure the files of a bundle that have no timing yet on a farm's device.

    A file whose job fails gets a second job, beside one of the empty file as a control. Only where
    the control ran and the file failed again is the failure the file's own. Everything else may
    pass, and the same command tries it again.

    Args:
        folder: of the bundle.
        plan: of the bundle.
        farm: that runs it.
        wanted: the farm's name of the device (default: the one that the bundle's device names).
        unit: compute unit (default: the bundle's).
        progress: is called after every look.
        say: is called with what the user should know before anything is submitted.
        poll_s: seconds between two looks (default: POLL_S).

    Returns:
        Counts of `files`, `measured`, `reused`, `failed` and `interrupted` ones.

    Raises:
        InputError: when the farm does not run such bundles, or has no such device or account.
        OverQuota: when the account may not submit the rest now.
        NasError: when the service does not answer, or files are left for a passing reason.
    """
    unit = _unit(folder, plan, farm, unit)
    with Client(farm) as client:
        described = client.ask("describe")
        device = _device(plan, farm, wanted, described)
        info = _device_info(plan, farm, device, unit, described["version"])
        with closing(Results(folder, plan, info)) as results:
            batch = _Batch(folder, plan, farm, device, unit, client, results)
            batch.announce(say)
            return batch.run(progress, POLL_S if poll_s is None else poll_s)


class _Batch:
    """The jobs of a bundle on one device.

    Attributes:
        _jobs: newest job of each file and round, by (round, digest), as the journal has them.
        _reasons: why jobs failed, by (round, digest).
    """

    def __init__(
        self,
        folder: Path,
        plan: Entry,
        farm: Farm,
        device: FarmDevice,
        unit: str,
        client: Client,
        results: Results,
    ) -> None:
        self.folder = folder
        self.farm = farm
        self.device = device
        self.unit = unit
        self.client = client
        self.results = results
        self.files = {each["digest"]: each for each in plan["files"] if "failed" not in each}
        # A timing is kept; a failure of an earlier call is tried again.
        timed = {each["digest"] for each in results.entries if "timing" in each}
        self.todo = [digest for digest in self.files if digest not in timed]
        self.counts = {
            "files": len(self.files),
            "measured": 0,
            "reused": len(self.files) - len(self.todo),
            "failed": 0,
            "interrupted": 0,
        }
        self._path = folder / f"jobs-{farm.name}.jsonl"
        self._header = {
            "format": JOBS_FORMAT,
            "bundle": plan["id"],
            "device": dict(device.handle),
            "unit": unit,
        }
        self._jobs = self._read_jobs()
        self._reasons: dict[tuple[int, str], str] = {}

    def announce(self, say: Say) -> None:
        """Tell what will be submitted, to what, and where costs and quotas are said."""
        fresh = [digest for digest in self.todo if (1, digest) not in self._jobs]
        size = sum(_size(self.folder / self.files[digest]["file"]) for digest in fresh)
        say(
            f"{self.farm.title}: {len(fresh)} files ({size / 1e6:.0f} MB) will be uploaded and run"
            f" as {len(fresh)} jobs on {self.device.name} ({self.device.os}), unit {self.unit};"
            f" {len(self.todo) - len(fresh)} jobs were submitted before. A failed file takes a"
            f" second job. {self.farm.terms[0].upper()}{self.farm.terms[1:]}"
        )

    def run(self, progress: Progress, poll_s: float) -> dict[str, int]:
        """Submit and wait for all files; return the counts."""
        over = self._round(1, self.todo, progress, poll_s)
        failed = [digest for digest in self.todo if (1, digest) in self._reasons]
        if failed:
            # The control: the empty file, which runs on every device that works. In a damaged plan
            # that has none, the first of the failed files stands for it.
            empty = (d for d, each in self.files.items() if each["role"] == "empty")
            control = next(empty, failed[0])
            again = list(dict.fromkeys([control, *failed]))
            known = "" if control in failed else control
            over = self._round(ROUNDS, again, progress, poll_s, known) or over
            self._settle(failed, control)
        # No job is outstanding any more: a later call starts with new ones.
        self._path.unlink(missing_ok=True)
        left = self.counts["interrupted"] = self._left()
        if over is not None and left:
            raise over
        if left:
            reason = next(iter(self._reasons.values()), "no reason given")
            raise NasError(
                f"{self.folder}: {left} files are left without a result ({reason}). Results"
                " are kept. Fix: run the same command again"
            )
        return self.counts

    def _round(
        self,
        number: int,
        digests: Sequence[str],
        progress: Progress,
        poll_s: float,
        known: str = "",
    ) -> OverQuota | None:
        """Submit the files of a round and wait for their jobs.

        Args:
            number: of the round.
            digests: of its files.
            progress: is called after every look.
            poll_s: seconds between two looks.
            known: digest of a file that has a timing already.

        Returns:
            The error of the quota where files could not be submitted.
        """
        waiting = [digest for digest in digests if (number, digest) in self._jobs]
        unsent = [digest for digest in digests if (number, digest) not in self._jobs]
        over = self._submit(number, unsent, waiting)
        while waiting:
            done = self._look(number, waiting, unsent, known)
            progress("jobs", len(digests) - len(waiting) - len(unsent), len(digests))
            # Jobs that ended make room for others. Without any, there is nothing new to submit.
            if done:
                over = self._submit(number, unsent, waiting)
            elif waiting:
                time.sleep(poll_s)
        return over

    def _submit(self, number: int, unsent: list[str], waiting: list[str]) -> OverQuota | None:
        """Submit files until none is left or the quota is reached; move them to `waiting`."""
        while unsent:
            digest = unsent[0]
            path = check_file(self.folder, self.files[digest])
            try:
                with unpacked(path) as sent:
                    answer = self._ask(
                        "submit",
                        path=str(sent.resolve()),
                        name=f"nas {digest}",
                        device=dict(self.device.handle),
                        unit=self.farm.units[self.unit],
                    )
            except OverQuota as error:
                return error
            except Refused as error:
                self._reasons[number, digest] = str(error)
                unsent.pop(0)
                continue
            # The id is on disk before the next file is sent.
            self._add_job(number, digest, answer["job"])
            waiting.append(unsent.pop(0))
        return None

    def _look(self, number: int, waiting: list[str], unsent: list[str], known: str) -> int:
        """Ask for the first jobs that wait; record those that ended and return their number."""
        ended = 0
        for digest in waiting[:CHUNK]:
            try:
                state = self._ask("status", job=self._jobs[number, digest])
            except Gone:
                # The service has deleted the job: the file is submitted again.
                waiting.remove(digest)
                unsent.append(digest)
                ended += 1
                continue
            if state["state"] == "running":
                continue
            waiting.remove(digest)
            ended += 1
            self._record(number, digest, state, keep=digest != known)
        return ended

    def _record(self, number: int, digest: str, state: Entry, keep: bool) -> None:
        """Store the timing of a job, or the reason why it has none."""
        reason = state.get("reason", "")
        if state["state"] == "done":
            if not state["times_ms"]:
                reason = "the job ended without figures"
            elif self.files[digest]["role"] != "empty" and self.farm.missed(
                self.unit, state["placement"]
            ):
                reason = f"no layer is known to have run on the {self.unit}"
        if reason:
            self._reasons[number, digest] = " ".join(reason.split())[:300]
            return
        self._reasons.pop((1, digest), None)
        if keep:
            self.results.append(
                {
                    "digest": digest,
                    "timing": _timing(state["times_ms"], state["placement"], self.unit),
                    "job": self._jobs[number, digest],
                    "load_ms": state["load_ms"],
                    "peak_mb": state["peak_mb"],
                }
            )
            self.counts["measured"] += 1

    def _settle(self, failed: Sequence[str], control: str) -> None:
        """Store what failed twice as the file's own failure, where the control ran meanwhile."""
        if (ROUNDS, control) in self._reasons or (ROUNDS, control) not in self._jobs:
            return
        for digest in failed:
            if (ROUNDS, digest) in self._reasons:
                self.results.append(
                    {"digest": digest, "failed": self._reasons.pop((ROUNDS, digest))}
                )
                self._reasons.pop((1, digest), None)
                self.counts["failed"] += 1

    def _left(self) -> int:
        return len(self.todo) - self.counts["measured"] - self.counts["failed"]

    def _ask(self, do: str, **given: Any) -> Entry:
        """Return the answer of the farm, after several tries where it does not answer."""
        for number in range(1, TRIES + 1):
            try:
                return self.client.ask(do, **given)
            except Unreachable:
                if number == TRIES:
                    raise
                time.sleep(number)
        raise AssertionError

    def _read_jobs(self) -> dict[tuple[int, str], str]:
        """Return the jobs of an earlier call. Raises InputError for those of another device."""
        lines = read_entries(self._path)
        if not lines:
            append_text(self._path, json.dumps(self._header) + "\n", kept="submitted")
            return {}
        for key, value in self._header.items():
            if lines[0].get(key) != value:
                raise InputError(
                    f"{self._path}: holds jobs of another {key} (got {value!r}, expected"
                    f" {lines[0].get(key)!r}). Fix: continue with that {key}, or remove the file to"
                    " submit all files again"
                )
        for number, line in enumerate(lines[1:], start=2):
            if type(line.get("round")) is not int or not all(
                isinstance(line.get(key), str) for key in ("digest", "job")
            ):
                raise InputError(
                    f"{self._path}:{number}: is not a job (expected round, digest and job). Fix:"
                    " remove this line and run again"
                )
        return {(line["round"], line["digest"]): line["job"] for line in lines[1:]}

    def _add_job(self, number: int, digest: str, job: str) -> None:
        self._jobs[number, digest] = job
        line = {"round": number, "digest": digest, "job": job}
        append_text(self._path, json.dumps(line) + "\n", kept="submitted")


def _unit(folder: Path, plan: Entry, farm: Farm, unit: str | None) -> str:
    """Return the compute unit. Raises InputError for a bundle that the farm does not run."""
    kind = str(plan["device"]["kind"])
    if kind not in farm.kinds:
        raise InputError(
            f"{folder}: --through {farm.name} does not run bundles for devices of the kind '{kind}'"
            f" (expected {' or '.join(farm.kinds)}). Fix: nas profile --bundle for a device of that"
            " kind"
        )
    phone = phones().get(_name(plan))
    chosen = unit or plan["device"].get("unit") or (phone.compute_unit if phone else "cpu")
    if chosen not in farm.units:
        raise InputError(
            f"--unit: is not a unit of {farm.title} (got {chosen}, expected one of"
            f" {', '.join(farm.units)})"
        )
    return str(chosen)


def _name(plan: Entry) -> str:
    """Return the name of the bundle's device without its precision."""
    device = plan["device"]
    return split_name(device["name"], device.get("precision", DEFAULT))[0]


def _device(plan: Entry, farm: Farm, wanted: str, described: Entry) -> FarmDevice:
    """Return the farm's device. Raises InputError where its chip is another than the phone's."""
    name = _name(plan)
    devices = [farm.device(each) for each in described["devices"]]
    device = farm.pick(wanted or name, bool(wanted), devices)
    phone = phones().get(name)
    if phone is not None and device.chip:
        ours = squeezed_chip(phone.soc)
        theirs = squeezed_chip(device.chip)
        if theirs not in ours:
            raise InputError(
                f"--through {farm.name}: {device.name} has another chip than {name} (got"
                f" {device.chip}, expected {phone.soc}). Fix: write the bundle for a device name of"
                " your own, with --kind"
            )
    return device


def _device_info(
    plan: Entry, farm: Farm, device: FarmDevice, unit: str, client_version: str
) -> Entry:
    """Return the fields of a table's device file."""
    phone = phones().get(_name(plan))
    return {
        "name": plan["device"]["name"],
        "description": f"{device.name}, through {farm.title}",
        "kind": plan["device"]["kind"],
        "soc": phone.soc if phone else device.chip,
        "os": device.os,
        "compute_unit": unit,
        "placement": "in each row",
        "threads": None,
        "tools": {**plan["tools"], farm.requirement: client_version},
        "date": date.today().isoformat(),
        "provenance": "measured",
        **farm.runtime(unit, client_version),
        # Quantised files run so on every unit; others in what the unit computes in.
        **({"precision": "int8"} if plan["device"].get("precision") == "int8" else {}),
    }


def _timing(times_ms: Sequence[float], placement: Mapping[str, int], unit: str) -> Entry:
    """Return the timing of a job's runs, with the share of layers on each unit."""
    p10, median, p90 = (float(value) for value in np.percentile(times_ms, [10, 50, 90]))
    total = sum(placement.values())
    parts = [
        f"{name} {count}/{total}"
        for name, count in sorted(placement.items(), key=lambda item: -item[1])
    ]
    notes = [["placement", ", ".join(parts) or "unknown"]]
    if total and placement.get(unit, 0) < total:
        notes.append(["note", f"partly off the {unit}"])
    return {
        "median_ms": median,
        "p10_ms": p10,
        "p90_ms": p90,
        "runs": len(times_ms),
        "notes": notes,
    }


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size if path.exists() else 0
