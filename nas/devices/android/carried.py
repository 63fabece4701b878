"""Bundles for Android phones that are elsewhere: what `run.sh` needs, and what it brings home.

`run.sh` measures the files of a bundle on a phone without nas: through adb alone, in the shell of a
device farm, or in a test lab. `nas.latency.bundle` writes such a bundle through PROGRAMS, and
`nas.devices.board.replay` reads the results.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from nas.devices.android import core_mask
from nas.devices.android.adb import MODERATE, TEMPORARY, reason_in
from nas.devices.android.benchmark_tool import (
    ACCELERATOR_VARIABLE,
    ACCELERATORS,
    GPU_DELEGATES,
    Statistics,
    accelerator_name,
    benchmark_tool,
    delegated,
    gpu_accelerator,
    read_log,
)
from nas.devices.android.device import (
    COOL_DOWN_S,
    GPU_FLAGS,
    LEAST_RUNS,
    LOADS,
    LOOK_S,
    MOST_LOADS,
    MOST_S,
    PRECISIONS,
    RUN_S,
    SPREAD,
    WARM_UP_S,
    gpu_placement,
    timing,
)
from nas.devices.board.runner.measuring import BOUND, EVERY, PAUSES_S
from nas.devices.board.runner.plan import PLAN_FILE, check_text
from nas.devices.board.runner.results import RESULTS_FILE, RESULTS_FORMAT, is_timing, read_results
from nas.devices.info import DeviceInfo
from nas.devices.kinds import BundlePrograms, Entry, Settings
from nas.devices.phones import Phone
from nas.devices.precision import check_precision
from nas.errors import InputError
from nas.files import check_regular, read_text, replacing, write_text
from nas.validation import explain

RUNNER = "run.sh"
TOOL = "benchmark_model"
SETTINGS_FILE = "settings.txt"
LIST_FILE = "files.txt"
RESULTS = "results"
DEVICE_FILE = "device.txt"
DEVICE_FORMAT = "nas-phone-1"
RESULT_FORMAT = "nas-phone-result-1"
LIMIT_S = 600
"""Maximum duration of one load in seconds; a slow operation then fails, not the phone."""
_NO_GPU = "GPU accelerator could not be loaded"
_DEVICE_KEYS = ("bundle", "model", "chip", "android", "build", "cores", "date")
_NUMBER = r"[0-9]{1,9}"
_MASK = r"[0-9a-f]{0,256}"
"""A hexadecimal mask of cores; empty for all of them."""
MOST_BYTES = 1 << 24
"""Maximum size of a result file; a file of another kind by that name may be larger."""


class Programs(BundlePrograms):
    """`run.sh` with its settings, the tool, and the libraries that lie beside it."""

    command = f"adb shell sh {TEMPORARY}/BUNDLE/{RUNNER}"
    files = (RUNNER, SETTINGS_FILE, LIST_FILE)

    def device(self, phone: Phone | None, settings: Settings) -> Entry:
        unit = settings.unit or (phone.compute_unit if phone else "cpu")
        threads = settings.threads or (phone.threads if phone and phone.threads else 1)
        mask = settings.affinity
        if mask is None:
            mask = phone.affinity if phone else ""
        # As `discovery` does for a connected phone.
        if unit not in PRECISIONS:
            raise InputError(
                f"--unit: is not a unit of Android phones (got {unit}, expected"
                f" {' or '.join(PRECISIONS)})"
            )
        check_precision(settings.precision, f"the {unit} of Android phones", PRECISIONS[unit])
        same_unit = phone is not None and phone.compute_unit == unit
        usual = phone.precision if phone and same_unit else PRECISIONS[unit][0]
        return {
            # Empty where the phone itself has to say what it is.
            "description": phone.description if phone else "",
            "soc": phone.soc if phone else "",
            "match": phone.match.model_dump() if phone else {"soc_model": [], "model": []},
            "unit": unit,
            "threads": threads,
            "affinity": core_mask(mask, threads),
            "precision": settings.precision or usual,
        }

    def begin(self, folder: Path, device: Entry, settings: Settings) -> None:
        """Copy the tool, with the accelerator libraries beside it. Raises where there is none."""
        tool = benchmark_tool(settings.tool)
        folder.mkdir(parents=True, exist_ok=True)
        libraries = sorted(tool.path.parent.glob("libLiteRt*.so"))
        files = {TOOL: tool.path} | {path.name: path for path in libraries}
        accelerator = gpu_accelerator(tool) if device["unit"] == "gpu" else None
        if accelerator is not None:
            files[accelerator_name(accelerator)] = accelerator.path
        for name, path in files.items():
            if path.resolve() == (folder / name).resolve():
                continue
            # Written under another name first: a link in the folder is replaced and not followed.
            with replacing(folder / name) as temporary:
                shutil.copyfile(path, temporary)
        device["tool"] = {
            "version": tool.version,
            "sha256": tool.sha256,
            "libraries": sorted(name for name in files if name != TOOL),
        }

    def finish(self, folder: Path, plan: Entry) -> None:
        """Write `run.sh`, and what it reads: lines of words, since the phone has no JSON."""
        write_text(folder / RUNNER, read_text(Path(__file__).with_name(RUNNER)))
        lines = [
            f"{entry['digest']} {entry['role']} {entry['sha256']} {entry['file']}"
            for entry in plan["files"]
            if "failed" not in entry
        ]
        write_text(folder / LIST_FILE, "".join(f"{line}\n" for line in lines))
        settings = "".join(f"{key} {value}\n" for key, value in _settings(plan))
        write_text(folder / SETTINGS_FILE, settings)

    def results(self, folder: Path, plan: Entry) -> list[Entry]:
        """Return the results of `run.sh` as lines of a bundle's results, the header first.

        Results of `nas profile --run` are returned where there are those alone.

        Raises:
            InputError: for damaged results, those of another bundle or phone, or of the CPU where
                the GPU was asked for.
        """
        written = read_results(folder, plan)
        carried = folder / RESULTS
        if not (carried / DEVICE_FILE).exists():
            return written
        if written:
            raise InputError(
                f"{folder}: holds results of run.sh and of nas profile --run. Fix: move"
                f" {RESULTS} or {RESULTS_FILE} away"
            )
        wrong = _wrong_setting(plan["device"])
        if wrong:
            raise InputError(
                f"{folder / PLAN_FILE}: device.{wrong}: is missing or damaged. Fix: copy the bundle"
                " again"
            )
        observed = _observed(carried / DEVICE_FILE, plan)
        device = _device_info(plan, observed)
        try:
            DeviceInfo(**device)
        except ValidationError as error:
            raise InputError(
                f"{carried / DEVICE_FILE}: does not describe a device ({explain(error)}). Fix: copy"
                " it again"
            ) from None
        entries: list[Entry] = [{"format": RESULTS_FORMAT, "bundle": plan["id"], "device": device}]
        for planned in plan["files"]:
            path = carried / f"{planned['digest']}.txt"
            if "failed" not in planned and path.exists():
                result = _read(path, planned["digest"])
                entries += _entries(result, planned, plan["device"], observed["cores"])
        return entries


PROGRAMS = Programs()


@dataclass
class _Result:
    """One result file of `run.sh`.

    Attributes:
        path: of the file.
        state: ok, failed or killed.
        cores: those that the tool could use, as a list of the kernel.
        thermal: thermal state as a number, or "unknown".
        codes: exit code of each load.
        logs: log of each load.
        drifted: whether the phone was off its first speed meanwhile.
    """

    path: Path
    state: str = ""
    cores: str = ""
    thermal: str = "unknown"
    codes: list[int] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    drifted: bool = False


def _settings(plan: Entry) -> Iterator[tuple[str, object]]:
    """Yield the keys and values of `settings.txt`."""
    device = plan["device"]
    yield "bundle", plan["id"]
    yield "unit", device["unit"]
    # The CPU takes no such flag: its files have the precision.
    yield "precision", GPU_FLAGS.get(device["precision"], "fp32")
    yield "threads", device["threads"]
    yield "mask", device["affinity"]
    yield "sha256", device["tool"]["sha256"]
    for pattern in device["match"]["model"]:
        yield "model", pattern
    for pattern in device["match"]["soc_model"]:
        yield "chip", pattern
    for name in device["tool"]["libraries"]:
        yield "library", name
    yield "gpu", GPU_DELEGATES
    yield "warm_up_s", WARM_UP_S
    yield "run_s", RUN_S
    yield "most_s", MOST_S
    yield "least_runs", LEAST_RUNS
    yield "loads", LOADS
    yield "most_loads", MOST_LOADS
    # The shell's arithmetic knows whole numbers alone.
    yield "spread_percent", round(100 * SPREAD)
    yield "limit_s", LIMIT_S
    yield "every", EVERY
    yield "bound_percent", round(100 * BOUND)
    yield "pauses_s", " ".join(f"{pause:.0f}" for pause in PAUSES_S)
    yield "hot", MODERATE
    yield "cool_down_s", round(COOL_DOWN_S)
    yield "look_s", round(LOOK_S)


def _wrong_setting(device: Entry) -> str:
    """Return the first setting of a plan's device that is missing or of the wrong type; "" without.

    `read_plan` has checked what every bundle has.
    """
    for key in ("description", "soc", "unit", "affinity", "precision"):
        if not isinstance(device.get(key), str):
            return key
    if device["unit"] not in PRECISIONS:
        return "unit"
    if not re.fullmatch(_MASK, device["affinity"]):
        return "affinity"
    if "threads" not in device:
        return "threads"
    tool = device.get("tool")
    if not isinstance(tool, dict) or not all(map(check_text, map(tool.get, ("version", "sha256")))):
        return "tool"
    return ""


def _observed(path: Path, plan: Entry) -> dict[str, str]:
    """Return what the phone said of itself. Raises InputError for another bundle's phone."""
    lines = _lines(path)
    if lines[:1] != [DEVICE_FORMAT]:
        raise InputError(f"{path}:1: is not of the format {DEVICE_FORMAT}. Fix: run run.sh again")
    pairs = (line.partition(" ") for line in lines[1:])
    observed = {key: value.strip() for key, _, value in pairs}
    for key in _DEVICE_KEYS:
        if key not in observed:
            raise InputError(f"{path}: is damaged ({key} is missing). Fix: copy it again")
        if not check_text(observed[key]):
            raise InputError(f"{path}: is damaged ({key} is not a text). Fix: copy it again")
    if observed["bundle"] != plan["id"]:
        raise InputError(
            f"{path}: holds the results of another bundle. Fix: replace {RESULTS} by this bundle's"
        )
    return observed


def _device_info(plan: Entry, observed: dict[str, str]) -> Entry:
    """Return the fields of a table's device file: the plan's settings and what was observed."""
    device = plan["device"]
    cores = observed["cores"]
    pinned = device["affinity"] and _cores(cores) == _cores_of_mask(device["affinity"])
    return {
        "name": device["name"],
        "description": device["description"] or observed["model"],
        "kind": device["kind"],
        "soc": device["soc"] or observed["chip"],
        "os": f"Android {observed['android']} ({observed['build']})",
        "runtime": "LiteRT CompiledModel (benchmark_model)",
        "runtime_version": device["tool"]["version"],
        "compute_unit": device["unit"],
        "placement": device["unit"],
        "precision": device["precision"],
        "threads": device["threads"],
        "affinity": f"mask {device['affinity']}" if pinned else f"cores {cores}",
        "tools": {**plan["tools"], TOOL: device["tool"]["sha256"]},
        "date": observed["date"] or date.today().isoformat(),
        "provenance": "measured",
    }


def _cores(text: str) -> set[int]:
    """Return the cores of a list of the kernel, as 0-3,7. Empty where it is not one."""
    cores: set[int] = set()
    for part in text.split(","):
        matched = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if matched is None:
            return set()
        first, last = matched[1], matched[2] or matched[1]
        cores |= set(range(int(first), int(last) + 1))
    return cores


def _cores_of_mask(mask: str) -> set[int]:
    number = int(mask or "0", 16)
    return {core for core in range(number.bit_length()) if number >> core & 1}


def _lines(path: Path) -> list[str]:
    """Return the lines of a text that came from a phone. Raises InputError where it is too large."""
    if path.is_symlink():
        raise InputError(f"{path}: is a link, expected a file. Fix: copy the results again")
    check_regular(path)
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: is too large for a result of {RUNNER}. Fix: copy it again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Fix: copy the results again"
        ) from None
    # A tool that crashes may print any bytes.
    return content.decode("utf-8", errors="replace").splitlines()


def _read(path: Path, digest: str) -> _Result:
    """Return the content of a result file. Raises InputError, with the line."""
    lines = _lines(path)
    if lines[:1] != [f"{RESULT_FORMAT} {digest}"]:
        raise InputError(
            f"{path}:1: is not the result of {digest}. Fix: remove it and run {RUNNER} again"
        )
    result = _Result(path)
    for number, line in enumerate(lines[1:], start=2):
        key, _, value = line.partition(" ")
        if key == "|" and result.logs:
            result.logs[-1] += f"{value}\n"
        elif key == "load" and re.fullmatch(_NUMBER, value):
            result.codes.append(int(value))
            result.logs.append("")
        elif key == "cores":
            result.cores = value
        elif key == "thermal":
            result.thermal = value
        elif key == "state" and value in ("ok", "failed", "killed"):
            result.state = value
        elif line == "note drift":
            result.drifted = True
        else:
            raise InputError(
                f"{path}:{number}: is not a line of a result (got {line[:40]!r}). Fix: remove the"
                f" file and run {RUNNER} again"
            )
    if not result.state or not result.codes:
        raise InputError(f"{path}: is cut off. Fix: remove it and run {RUNNER} again")
    return result


def _entries(result: _Result, planned: Entry, device: Entry, cores: str) -> Iterator[Entry]:
    """Yield the lines of a bundle's results for one file."""
    digest = planned["digest"]
    if result.cores != cores:
        yield {"digest": digest, "lost": f"measured on cores {result.cores}, not {cores}"}
        return
    if result.state == "killed":
        yield {"digest": digest, "lost": "killed by signal 9 twice, out of memory"}
        return
    if result.state == "failed":
        yield {"digest": digest, "failed": _reason(result)}
        return
    log = result.logs[-1]
    notes = {"placement": "cpu"}
    if device["unit"] == "gpu" and planned["role"] != "empty":
        if _NO_GPU in log:
            raise InputError(
                f"{result.path}: was measured on the CPU (the tool found no GPU library). Fix:"
                f" write the bundle with {ACCELERATOR_VARIABLE}=FILE, {ACCELERATORS[0]} of the tool's"
                " LiteRT release, and run it again"
            )
        placement, *remarks = gpu_placement(delegated(log))
        notes = {"placement": placement}
        if remarks:
            notes["note"] = ", ".join(remarks)
    if re.fullmatch(_NUMBER, result.thermal) and int(result.thermal) >= MODERATE:
        notes["note"] = ", ".join(filter(None, ("thermal", notes.get("note"))))
    try:
        loads: list[Statistics] = [read_log(log) for log in result.logs]
        timed = asdict(timing(loads, tuple(notes.items())))
        if not is_timing(timed):
            raise ValueError("impossible times")
    except ValueError as error:
        raise InputError(
            f"{result.path}: is damaged ({error}). Fix: remove it and run {RUNNER} again"
        ) from None
    yield {"digest": digest, "timing": timed}
    if result.drifted:
        yield {"drifted": [digest]}


def _reason(result: _Result) -> str:
    """Return why a file cannot run, from the last load."""
    code = result.codes[-1]
    # The shell adds 128 to the number of the signal that ended a program; `timeout` gives 124.
    if code == 124:
        return f"benchmark_model did not end within {LIMIT_S} s"
    how = f"by signal {code - 128}" if code > 128 else f"with exit code {code}"
    if code == 0:
        how = "without statistics"
    return f"benchmark_model ended {how}: {reason_in(result.logs[-1]) or 'no message'}"
