"""Provide LiteRT's `benchmark_model` for Android, and read its output.

The tool is a file of the user, or the one that LiteRT releases, kept in the cache. `discovery`
hands it to each phone, and `device` reads its result file, log lines and errors here.
"""

from __future__ import annotations

import math
import os
import re
import struct
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from nas.devices.base import StartUp
from nas.errors import InputError, NasError
from nas.files import file_sha256, replacing, write_text

VERSION = "2.3.0"
URL = f"https://storage.googleapis.com/litert/binaries/{VERSION}/android_arm64/benchmark_model"
VARIABLE = "NAS_BENCHMARK_MODEL"
TIMEOUT_S = 30.0

_ELF_64_LITTLE = b"\x7fELF\x02\x01"
_AARCH64 = (183).to_bytes(2, "little")


@dataclass(frozen=True)
class Tool:
    """A `benchmark_model` for arm64.

    Attributes:
        path: of the program on this computer.
        sha256: of its content.
        version: of its LiteRT release; of a file that a user gave, the start of its checksum.
    """

    path: Path
    sha256: str
    version: str


def benchmark_tool(path: str | Path | None = None) -> Tool:
    """Return the tool at `path`, else at $NAS_BENCHMARK_MODEL, else LiteRT's release.

    The release is downloaded once.

    Raises:
        InputError: when the file cannot be read or is not a program for arm64.
        NasError: when there is none and it cannot be downloaded.
    """
    given = path or os.environ.get(VARIABLE)
    if given:
        digest = _digest(Path(given))
        return Tool(Path(given), digest, f"benchmark_model {digest[:12]}")
    # A file without a checksum beside it was put there by hand, and is taken as it is. One that
    # differs from its checksum is damaged.
    cached = cache_path()
    checksum = cached.with_name(cached.name + ".sha256")
    if not cached.is_file() or (
        checksum.is_file() and checksum.read_text().strip() != file_sha256(cached)
    ):
        _fetch(cached)
        write_text(checksum, file_sha256(cached) + "\n")
    return Tool(cached, _digest(cached), VERSION)


def cache_path() -> Path:
    """Return the path of LiteRT's release in the cache, where a user can put it by hand too.

    It is below $XDG_CACHE_HOME/nas/tools (default: ~/.cache/nas/tools).
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "nas" / "tools" / f"litert-{VERSION}-android_arm64" / "benchmark_model"


def _fetch(path: Path) -> None:
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NasError(
            f"benchmark_model could not be downloaded ({reason}). Fix: download {URL} elsewhere and"
            f" put it at {path}, or set {VARIABLE}=FILE"
        ) from None
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _digest(path: Path) -> str:
    """Return the checksum of a program for arm64; raise InputError for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(20)
        digest = file_sha256(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Fix: download {URL}"
        ) from None
    # ELF header: magic, 64 bits and little endian in bytes 0 to 5, the machine in bytes 18 and 19.
    if head[:6] != _ELF_64_LITTLE or head[18:20] != _AARCH64:
        raise InputError(f"{path}: is not a program for arm64. Fix: download {URL}")
    return digest


_LATENCY = 2
_MEMORY = 3
_MISC = 4
_MEDIAN, _P5, _P95, _RUNS = 5, 6, 7, 2
_INIT_MS, _FIRST_MS = 8, 9
_OVERALL_KB, _PEAK_MB = 2, 3
"""Field numbers of `tflite.tools.benchmark.BenchmarkResult` and of its inner messages.

_LATENCY holds the percentiles, the initialisation and the first run of the warm-up in ms, _MISC the
number of runs, _MEMORY what the process took more than before.
"""

# As "count=50 curr=121 min=119 max=140 avg=122.4 p5=120 median=121 p95=130", in microseconds.
_COUNT = re.compile(r"^(?:INFO: )?count=([0-9]+)(.*)$", re.MULTILINE)
_VALUE = re.compile(r"(\w+)=(-?[0-9.]+(?:e[+-]?[0-9]+)?)")
# As "Replacing 30 out of 31 node(s) with delegate (TfLiteXNNPackDelegate)".
_DELEGATED = re.compile(r"Replacing (\d+) out of (\d+) node\(s\) with delegate \((\w+)\)")
_SEVERE = re.compile(r"^(?:ERROR|FATAL): (?:\[\S+\] )?(.*\S)", re.MULTILINE)


@dataclass(frozen=True)
class Statistics:
    """Number of runs and percentiles of their latency in microseconds; the tool counts whole ones.

    Raises:
        ValueError: when the numbers cannot be those of runs, as of a damaged file.
    """

    runs: int
    p5_us: float
    median_us: float
    p95_us: float

    def __post_init__(self) -> None:
        times = (self.p5_us, self.median_us, self.p95_us)
        if (
            self.runs < 1
            or not all(map(math.isfinite, times))
            or not 0 <= times[0] <= times[1] <= times[2]
        ):
            raise ValueError(
                f"impossible statistics (got {self.runs} runs with p5, median and p95 of"
                f" {times[0]}, {times[1]} and {times[2]} us)"
            )


def read_result(data: bytes) -> Statistics:
    """Return the statistics in a result file (`--result_file_path`), a serialised BenchmarkResult.

    Raises:
        ValueError: when it is damaged or lacks them.
    """
    parts = dict(_fields(data))
    latency = dict(_fields(_message(parts, _LATENCY)))
    misc = dict(_fields(_message(parts, _MISC)))
    runs = misc.get(_RUNS)
    if not isinstance(runs, int):
        raise ValueError("the number of runs is missing")
    return Statistics(
        runs, *(round(_milliseconds(latency, number) * 1e3, 3) for number in (_P5, _MEDIAN, _P95))
    )


def read_start(data: bytes) -> StartUp:
    """Return load time, first run and memory in a result file.

    Raises:
        ValueError: when it is damaged or lacks the times.
    """
    parts = dict(_fields(data))
    latency = dict(_fields(_message(parts, _LATENCY)))
    memory = dict(_fields(_message(parts, _MEMORY))) if _MEMORY in parts else {}
    # The peak is sampled on request alone; without it the tool gives what the runs left in use.
    overall = memory.get(_OVERALL_KB)
    memory_mb = overall / 1024 if isinstance(overall, int) and overall > 0 else None
    if _PEAK_MB in memory and (peak := _milliseconds(memory, _PEAK_MB)) > 0:
        memory_mb = peak
    load_ms = _milliseconds(latency, _INIT_MS)
    first_ms = _milliseconds(latency, _FIRST_MS)
    if not all(math.isfinite(each) and each >= 0 for each in (load_ms, first_ms, memory_mb or 0)):
        raise ValueError(f"impossible times (got {load_ms} and {first_ms} ms)")
    return StartUp(round(load_ms, 6), round(first_ms, 6), memory_mb)


def read_log(text: str) -> Statistics:
    """Return the statistics in the tool's log, where it wrote no result file.

    They are in the second line with `count=`; the first one is that of the warm-up. When all times
    are equal, the line is `count=50 curr=123(all same)`, in newer tools with percentiles.

    Raises:
        ValueError: when there is no such line, or it is damaged.
    """
    lines = _COUNT.findall(text)
    if len(lines) < 2:
        raise ValueError(
            f"statistics are missing (got {len(lines)} lines, expected one of the warm-up and one"
            " of the runs)"
        )
    runs, figures = lines[1]
    values = {name: float(value) for name, value in _VALUE.findall(figures)}
    # Older tools log no percentiles: the extremes stand in for p5 and p95, the mean for the median.
    times = [
        next((values[name] for name in names if name in values), math.nan)
        for names in (("p5", "min", "curr"), ("median", "avg", "curr"), ("p95", "max", "curr"))
    ]
    return Statistics(int(runs), *times)


def delegated(text: str) -> tuple[int, int] | None:
    """Return how many of the graph's nodes went to the accelerator, and of how many.

    None where the log does not state it. XNNPACK runs the remaining nodes on the CPU and is not
    counted.
    """
    # The log has one line per delegate that took nodes of the graph.
    shares = [
        (int(part), int(whole))
        for part, whole, name in _DELEGATED.findall(text)
        if "XNNPack" not in name
    ]
    return (sum(part for part, _ in shares), max(whole for _, whole in shares)) if shares else None


def first_error(text: str) -> str | None:
    """Return the first error that the tool logged, else its last line, else None."""
    severe = _SEVERE.search(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return severe.group(1)[:300] if severe else (lines[-1][:300] if lines else None)


def _message(fields: dict[int, int | bytes], number: int) -> bytes:
    """Return the bytes of a field; ValueError where it is missing or a number."""
    value = fields.get(number)
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is missing")
    return value


def _milliseconds(fields: dict[int, int | bytes], number: int) -> float:
    """Return a field of type float."""
    data = _message(fields, number)
    if len(data) != 4:
        raise ValueError(f"field {number} is not a float")
    value: float = struct.unpack("<f", data)[0]
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a message in protobuf's wire format.

    Varints come as numbers, all others as their bytes. Raises ValueError for a damaged message.
    """
    at = 0
    while at < len(data):
        # The low three bits of a tag are the wire type, the others the field's number. Types: 0 is
        # a varint, 1 has 8 bytes, 2 its length first, 5 has 4 bytes; 3 and 4 are obsolete groups.
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"unknown wire type {kind} at byte {at}")
        size = 8 if kind == 1 else 4
        if kind == 2:
            size, at = _varint(data, at)
        if at + size > len(data):
            raise ValueError(f"ends within a field, at byte {len(data)}")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the varint that begins at a byte, and the index after it."""
    # Seven bits per byte, the lowest first; a set top bit says that another byte follows.
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number does not end, at byte {at}")
