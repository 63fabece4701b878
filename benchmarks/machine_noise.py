"""Measure how steady this computer is, relative to its fastest times. Prints JSON.

    python benchmarks/machine_noise.py [--minutes 5] [--round-ms 100]

It loads the smallest published members of some spaces and stacks of an operation once each. It runs
them by turns, in rounds of a tenth of a second on one core, as `nas profile --device host` does.
Rounds are compared with the floor of their model (the 3rd percentile). `rounds` has the percentiles
of single rounds. `windows` has those of the lowest round within so many seconds, which is what
repeated visits over that time see.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.devices import Chain
from nas.devices.board.runner.timer import load
from nas.devices.host.device import Host
from nas.space import load_architecture
from nas.versions import versions

NETWORKS = ("efficientformer_l1", "swiftformer_xs", "efficientvit_b1")
WINDOWS_S = (10, 20, 40)
FLOOR = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--round-ms", type=float, default=100)
    options = parser.parse_args()
    runs = {name: load(str(path), 1) for name, path in files().items()}
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    begin = time.monotonic()
    times = list[float]()
    taken = list[list[float]]()
    while time.monotonic() < begin + 60 * options.minutes:
        times.append(time.monotonic() - begin)
        taken.append([round_ms(run, options.round_ms / 1e3) for run in runs.values()])
        print(f"\r{times[-1]:.0f} s", end="", file=sys.stderr)
    relative = np.array(taken) / np.percentile(taken, FLOOR, axis=0)
    print(
        json.dumps(
            {
                "seconds": round(time.monotonic() - begin),
                "turns": len(times),
                "load": os.getloadavg(),
                "models": {
                    name: described(np.array(times), relative[:, place])
                    for place, name in enumerate(runs)
                },
                "versions": versions("ai-edge-litert"),
            },
            indent=2,
        )
    )


def files() -> dict[str, Path]:
    """Return whole networks, and one stack for each size of map in the first of them."""
    host = Host()
    chains = dict[str, Chain]()
    for name in NETWORKS:
        operations = load_architecture(name).operations()
        chains[name] = Chain.network(operations)
        for operation in operations if name == NETWORKS[0] else ():
            if operation.input == operation.output:
                chains.setdefault(
                    f"{operation.spec.kind} at {operation.input}",
                    Chain.stack(operation, host.copies),
                )
    found = {name: host.prepare(chain).result() for name, chain in chains.items()}
    host.close()
    return found


def round_ms(run: Callable[[], None], seconds: float) -> float:
    """Return the median over one round."""
    samples: list[float] = []
    before = time.perf_counter()
    end = before + seconds
    while before < end or len(samples) < 3:
        run()
        after = time.perf_counter()
        samples.append(after - before)
        before = after
    return 1e3 * float(np.median(samples))


def described(times: NDArray[np.float64], relative: NDArray[np.float64]) -> dict[str, object]:
    """Return percentiles of rounds and of windows, relative to the floor."""
    windows = {}
    for length in WINDOWS_S:
        numbers = (times // length).astype(int)
        # Without the last window, which may be incomplete.
        lowest = [relative[numbers == number].min() for number in np.unique(numbers)[:-1]]
        windows[f"{length} s"] = percentiles(np.array(lowest), (50, 90, 100)) if lowest else {}
    return {"rounds": percentiles(relative, (5, 25, 50, 75, 95)), "windows": windows}


def percentiles(values: NDArray[np.float64], which: tuple[int, ...]) -> dict[str, float]:
    return {
        str(q): round(float(value), 3)
        for q, value in zip(which, np.percentile(values, which), strict=True)
    }


if __name__ == "__main__":
    main()
