"""Measure found and published networks of recorded whole runs again, by turns. Prints JSON.

    python benchmarks/whole_run_latency.py [experiments/whole-runs] [--turns 60] [--most-load 1.5]
        [--patience 1200]

`whole_run.py` searched for the latency that its table predicted for the published member. Where that
prediction was wrong, the found network was compared with a member of another latency than was asked
for. This prints the measured ratio (found / published) beside the predicted one. It needs only the
architectures and the table: latency does not depend on the values of weights, so random ones are
converted.

All networks run in LiteRT on one thread, one at a time. A turn measures each of them once, and every
second turn goes backwards, so that drift of the machine affects found and published network alike. A
turn waits until the 1-minute load average is below `--most-load`. After `--patience` seconds of
waiting in total it is taken anyway. Only quiet turns count where there are enough of them, else all
do; `load` says which, and how busy the machine was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import nas
from nas.convert.chain import Chain
from nas.devices import Settings
from nas.files import YamlFile
from nas.latency import LatencyTable
from nas.latency.known_devices import opened
from nas.space import Architecture
from nas.versions import versions

SPACES = Path(__file__).parent / "spaces"
FAMILIES = ("efficientformer", "emo", "efficientvit", "swiftformer")
NETWORKS = ("found", "published")
RETRY_S = 5.0
LEAST_QUIET = 10
"""Minimum number of quiet turns; with fewer, all turns count."""
MISPREDICTED = 10.0
"""Percent by which the predicted ratio may be off before the target counts as mispredicted.

The ratio decides, as a busy machine makes both networks slower than the table says."""

Times = dict[tuple[str, str], list[float]]
"""Milliseconds of every turn, by family and network."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="?", default=Path("experiments/whole-runs"))
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument(
        "--most-load", type=float, default=1.5, help="load average at which a turn waits"
    )
    parser.add_argument(
        "--patience", type=float, default=1200.0, help="seconds to wait for quiet, in all"
    )
    arguments = parser.parse_args()
    table = nas.load_table(arguments.runs / "table")
    networks = {
        (family, name): arch
        for family in FAMILIES
        for name, arch in pair(arguments.runs, family).items()
    }
    times, loads = by_turns(networks, arguments.turns, arguments.most_load, arguments.patience)
    counted = counted_turns(loads, arguments.most_load)
    times = {key: [each[turn] for turn in counted] for key, each in times.items()}
    print(
        json.dumps(
            {
                "families": {
                    family: compared(arguments.runs, family, table, networks, times)
                    for family in FAMILIES
                },
                "turns": len(counted),
                "threads": 1,
                "load": load_summary(loads, counted, arguments.most_load),
                "table": str(table.path),
                "date": date.today().isoformat(),
                "versions": versions("torch", "litert-torch", "ai-edge-litert"),
            },
            indent=2,
        )
    )


def pair(runs: Path, family: str) -> dict[str, Architecture]:
    """Return the found network of a recorded run and the published member that set its target."""
    found = nas.load_architecture(runs / family / "architecture.yaml")
    space = nas.load_space(str(SPACES / f"{family}_cifar.yaml")).at(found.resolution, found.classes)
    published = min(space.published.values(), key=lambda member: member.params)
    return {"found": found, "published": published}


def by_turns(
    networks: Mapping[tuple[str, str], Architecture],
    turns: int,
    most_load: float,
    patience_s: float,
) -> tuple[Times, list[float]]:
    """Return the ms of every network in every turn, and the load average before each turn."""
    times: Times = {key: [] for key in networks}
    loads: list[float] = []
    with opened("host", Settings(threads=1)) as devices, tempfile.TemporaryDirectory() as folder:
        host = devices[0]
        futures = {
            key: host.prepare(Chain.network(arch.operations())) for key, arch in networks.items()
        }
        # Copies, as `nas check` of the same network would remove the file from the cache while this
        # waits.
        files = {
            key: Path(shutil.copy(future.result(), Path(folder) / f"{'-'.join(key)}.tflite"))
            for key, future in futures.items()
        }
        for turn in range(turns):
            patience_s -= wait_for_quiet(most_load, patience_s)
            loads.append(load_average())
            order = list(files) if turn % 2 == 0 else list(reversed(files))
            for key in order:
                times[key].append(host.measure(files[key]).median_ms)
            print(f"turn {turn + 1} of {turns}, load {loads[-1]:.2f}", file=sys.stderr, flush=True)
    return times, loads


def wait_for_quiet(most_load: float, patience_s: float) -> float:
    """Wait for a load average below `most_load`, at most `patience_s`; return the seconds waited."""
    start = time.monotonic()
    while load_average() >= most_load and time.monotonic() - start < patience_s:
        time.sleep(RETRY_S)
    return time.monotonic() - start


def load_average() -> float:
    """Return the 1-minute load average. The measurement itself makes up to 1 of it."""
    return float(Path("/proc/loadavg").read_text(encoding="utf-8").split()[0])


def counted_turns(loads: Sequence[float], most_load: float) -> list[int]:
    """Return the turns that count: the quiet ones where there are enough, else all."""
    quiet = [turn for turn, load in enumerate(loads) if load < most_load]
    return quiet if len(quiet) >= LEAST_QUIET else list(range(len(loads)))


def load_summary(
    loads: Sequence[float], counted: Sequence[int], most_load: float
) -> dict[str, Any]:
    """Return the load average of the turns that count, and how many turns were quiet."""
    own = [loads[turn] for turn in counted]
    return {
        "median": round(statistics.median(own), 2),
        "lowest": min(own),
        "highest": max(own),
        "asked_below": most_load,
        "turns_below": sum(load < most_load for load in loads),
        "turns_taken": len(loads),
    }


def compared(
    runs: Path,
    family: str,
    table: LatencyTable,
    networks: Mapping[tuple[str, str], Architecture],
    times: Times,
) -> dict[str, Any]:
    """Return a family's measured and predicted ratios, and the row of each of its two networks."""
    rows = {
        name: network_row(table, networks[family, name], times[family, name]) for name in NETWORKS
    }
    found = rows["found"]
    published = rows["published"]
    # The ratio of each turn: both networks ran within a second or so of each other.
    ratios = np.array(times[family, "found"]) / np.array(times[family, "published"])
    ratio = found["median_ms"] / published["median_ms"]
    predicted_ratio = found["predicted_ms"] / published["predicted_ms"]
    error = 100 * (predicted_ratio / ratio - 1)
    return {
        "ratio": round(ratio, 4),
        "ratio_of_turns": {
            name: round(float(np.percentile(ratios, q)), 4)
            for name, q in (("p10", 10), ("median", 50), ("p90", 90))
        },
        "ratio_of_lowest": round(found["lowest_ms"] / published["lowest_ms"], 4),
        "predicted_ratio": round(predicted_ratio, 4),
        "ratio_error_percent": round(error, 1),
        "target_mispredicted": abs(error) > MISPREDICTED,
        "target_ms": YamlFile(runs / family / "run.yaml").data["target"]["latency_ms"],
        **rows,
    }


def network_row(
    table: LatencyTable, arch: Architecture, times_ms: Sequence[float]
) -> dict[str, Any]:
    """Return a network's median latency over the turns, its spread, and the prediction's error."""
    median_ms = statistics.median(times_ms)
    predicted_ms = table.total_ms(arch)
    low, high = np.percentile(times_ms, [10, 90])
    return {
        "name": arch.name,
        "params": arch.params,
        "macs": arch.macs,
        "median_ms": round(median_ms, 5),
        "p10_ms": round(float(low), 5),
        "p90_ms": round(float(high), 5),
        "lowest_ms": round(min(times_ms), 5),
        "predicted_ms": round(predicted_ms, 5),
        "error_percent": round(100 * (predicted_ms / median_ms - 1), 1),
    }


if __name__ == "__main__":
    main()
