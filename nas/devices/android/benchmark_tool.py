"""Provide LiteRT's `benchmark_model` for Android, and read its output.

The tool is a file of the user, or the one that LiteRT releases, kept in the cache. `discovery`
hands it to each phone, and `device` reads its result file, log lines and errors here.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import struct
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from nas import resources
from nas.devices.base import StartUp
from nas.errors import InputError, NasError
from nas.files import MOST_MS, file_sha256, replacing, write_text

VERSION = "2.3.0"
RELEASE = f"https://storage.googleapis.com/litert/binaries/{VERSION}/android_arm64"
URL = f"{RELEASE}/benchmark_model"
VARIABLE = "NAS_BENCHMARK_MODEL"
ACCELERATOR_VARIABLE = "NAS_GPU_ACCELERATOR"
ACCELERATORS = (
    "libLiteRtClGlAccelerator.so",
    "libLiteRtGpuAccelerator.so",
    "libLiteRtOpenClAccelerator.so",
    "libLiteRtWebGpuAccelerator.so",
    "libLiteRtVulkanAccelerator.so",
)
"""Libraries that the tool looks for to run on a GPU; LiteRT releases the first one for Android."""
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
    cached = _released("benchmark_model", VARIABLE)
    return Tool(cached, _digest(cached), VERSION)


def gpu_accelerator(tool: Tool) -> Tool | None:
    """Return the library by which the tool runs on a GPU.

    It is the file at $NAS_GPU_ACCELERATOR, else one beside the tool. Beside LiteRT's release it is
    downloaded once. None where there is none, or it cannot be downloaded: the phone may have one.

    Raises:
        InputError: when the file cannot be read or is not for arm64.
    """
    given = os.environ.get(ACCELERATOR_VARIABLE)
    beside = [tool.path.with_name(name) for name in ACCELERATORS]
    path = Path(given) if given else next((each for each in beside if each.is_file()), None)
    # A tool of the user's may be of another version, whose library differs.
    if path is None and tool.version != VERSION:
        return None
    if path is None:
        try:
            path = _released(ACCELERATORS[0], ACCELERATOR_VARIABLE)
        except NasError:
            return None
    return Tool(path, _digest(path), VERSION)


def accelerator_name(library: Tool) -> str:
    """Return the name under which the tool finds the library beside it."""
    name = library.path.name
    return name if name in ACCELERATORS else ACCELERATORS[0]


def cache_path(name: str = "benchmark_model") -> Path:
    """Return the path of a file of LiteRT's release in the cache.

    A user can put it there by hand too. It is below $XDG_CACHE_HOME/nas/tools (default:
    ~/.cache/nas/tools).
    """
    return resources.cache_folder("tools") / f"litert-{VERSION}-android_arm64" / name


def _released(name: str, variable: str) -> Path:
    """Return a file of LiteRT's release in the cache, downloaded where it is missing or damaged."""
    # A file without a checksum beside it was put there by hand, and is taken as it is. One that
    # differs from its checksum is damaged.
    cached = cache_path(name)
    checksum = cached.with_name(cached.name + ".sha256")
    if not cached.is_file() or (
        checksum.is_file() and checksum.read_text().strip() != file_sha256(cached)
    ):
        _fetch(name, cached, variable)
        write_text(checksum, file_sha256(cached) + "\n")
    return cached


def _fetch(name: str, path: Path, variable: str) -> None:
    url = f"{RELEASE}/{name}"
    remedy = f"Fix: download {url} elsewhere and put it at {path}, or set {variable}=FILE"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read()
            checksums = ", ".join(answer.headers.get_all("x-goog-hash") or ())
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NasError(f"{name} could not be downloaded ({reason}). {remedy}") from None
    # A portal that asks for a login answers with a page of its own and status 200. It must not
    # become the file in the cache.
    pinned = dict(re.findall(r"(\w+)=([\w+/=]+)", checksums)).get("md5")
    whole = not pinned or base64.b64decode(pinned) == hashlib.md5(content).digest()
    if not whole or not _for_arm64(content):
        raise NasError(
            f"{name} could not be downloaded (got {len(content)} bytes that are not the released"
            f" program: a login page of the network, or a broken download). {remedy}"
        )
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _for_arm64(head: bytes) -> bool:
    """Return whether a file begins as a program or library for arm64."""
    # ELF header: magic, 64 bits and little endian in bytes 0 to 5, the machine in bytes 18 and 19.
    return head[:6] == _ELF_64_LITTLE and head[18:20] == _AARCH64


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
    if not _for_arm64(head):
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
# As "Replacing 30 out of 31 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1
# partitions for subgraph 0 (main)."; older tools do not name the subgraph.
_DELEGATED = re.compile(
    r"Replacing (\d+) out of (\d+) node\(s\) with delegate \(([^)]*)\)"
    r"(?: node, yielding \d+ partitions(?: for subgraph (\d+))?)?"
)
GPU_DELEGATES = (
    "LITERT_(CL|GL|VULKAN|WEBGPU|OPENCL|OPENGL|GPU)[A-Za-z0-9_]*"
    "|TfLiteGpuDelegate[A-Za-z0-9_]*|GPU( WebGPU)?"
)
"""Names of delegates that run on a GPU, in any case. Any other one runs on a CPU or is unknown.

The pattern is read by Python and by a phone's `grep -E`.
"""
_GPU_DELEGATE = re.compile(GPU_DELEGATES, re.IGNORECASE)
_NO_GPU = re.compile(
    r"^.*(?:GPU accelerator could not be loaded|Can not open OpenCL|Created 0 GPU delegate kernels"
    r"|Failed to initialize \w+ environment|will not be executed by the delegate).*$",
    re.MULTILINE,
)


MOST_RUNS = 10**9
"""More runs than anyone waits for."""


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
            or self.runs > MOST_RUNS
            or not 0 <= times[0] <= times[1] <= times[2] <= 1000 * MOST_MS
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


@dataclass(frozen=True)
class Delegated:
    """Nodes of a graph, over all its subgraphs: those that a GPU's delegate took, and all."""

    taken: int
    nodes: int


def delegated(text: str) -> Delegated:
    """Return what GPU delegates took of the graph, by the tool's log.

    Nothing was taken where the log does not say so. The tool runs on the CPU where it finds no
    GPU, and ends as if all were well.
    """
    taken = 0
    nodes: dict[str, int] = {}
    lines: Counter[str] = Counter()
    for part, whole, name, subgraph in _DELEGATED.findall(text):
        # Older tools do not name the subgraph. A delegate has one line per subgraph, in order.
        place = subgraph or str(lines[name])
        lines[name] += 1
        # A second delegate's line counts the nodes that the first one has added: the first count
        # is the subgraph's own.
        nodes.setdefault(place, int(whole))
        if _GPU_DELEGATE.fullmatch(name):
            taken += int(part)
    return Delegated(taken, sum(nodes.values()))


def no_gpu(text: str) -> str:
    """Return the line of the tool's log that says why no GPU was used; empty where none does."""
    return next((match[0].strip()[:300] for match in _NO_GPU.finditer(text)), "")


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
