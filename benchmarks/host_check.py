"""Measure how long a host table takes and how well it predicts networks. Prints JSON.

    python benchmarks/host_check.py [--spaces efficientformer swiftformer ...] [--nets 24]
        [--keep FOLDER]
    python benchmarks/host_check.py --draw FOLDER

It starts with an empty cache of converted files, and runs `nas profile` and `nas check` for one space
after the other into one table. With --keep the table stays in FOLDER. With --draw it measures
nothing: it draws the check networks of FOLDER's networks.csv into networks.png beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nas.figures import Figure, Series, layer, series_encoding, x_axis, y_axis
from nas.versions import versions

COLOURS = ("#2f86c6", "#d9822b", "#3d9970", "#b0589a", "#8a8f98")
SPACES = ("efficientformer", "efficientvit", "swiftformer", "emo", "efficientformerv2")
CHECKED = (
    "nets",
    "mape",
    "bias",
    "worst",
    "within_5",
    "within_10",
    "spearman",
    "drift",
    "mape_without_drift",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spaces", nargs="+", default=SPACES)
    parser.add_argument("--nets", type=int, default=24)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    if options.draw:
        draw(options.draw)
        return
    with tempfile.TemporaryDirectory() as scratch:
        table = (options.keep or Path(scratch) / "host").resolve()
        environment = os.environ | {"XDG_CACHE_HOME": scratch}
        found = {}
        for space in options.spaces:
            found[space] = of_space(space, table, options.nets, environment)
            print(json.dumps({space: found[space]["summary"]}), file=sys.stderr, flush=True)
    tools = versions("torch", "litert-torch", "ai-edge-litert")
    print(json.dumps({"load": os.getloadavg(), "spaces": found, "versions": tools}, indent=2))


def of_space(space: str, table: Path, nets: int, environment: dict[str, str]) -> dict[str, Any]:
    profile = nas(
        ["profile", "--space", space, "--device", "host", "--out", str(table)], environment
    )
    begin = time.perf_counter()
    check = nas(
        ["check", "--space", space, "--device", str(table), "--nets", str(nets)], environment
    )
    summary = {
        "profile_s": profile["seconds"],
        "check_s": round(time.perf_counter() - begin, 1),
        **{
            key: profile[key]
            for key in ("operations", "measured", "reused", "interpolated", "failed")
        },
        **{key: check[key] for key in CHECKED},
    }
    return {"summary": summary, "check": check, "profile": profile}


def nas(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "nas", *arguments, "--json"]
    document: dict[str, Any] = json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    )
    return document


def draw(folder: Path) -> None:
    """Draw predicted against measured latency of the networks that no fit has seen."""
    with (folder / "networks.csv").open(encoding="utf-8", newline="") as file:
        networks = [row for row in csv.DictReader(file) if row["role"] == "check"]
    points = [
        {
            "x": float(row["measured_ms"]),
            "y": float(row["predicted_ms"]),
            "series": row["space"],
            "about": row["network"],
        }
        for row in networks
    ]
    spaces = sorted({row["space"] for row in networks})
    ends = [min(point["x"] for point in points), max(point["x"] for point in points)]
    logarithmic = {"scale": {"type": "log", "nice": False}}
    x = x_axis("measured (ms)", **logarithmic)
    y = y_axis("predicted (ms)", **logarithmic)
    channels = series_encoding([Series(*pair) for pair in zip(spaces, COLOURS, strict=False)])
    layers = [
        layer({"type": "line", "stroke": "#8a8f98"}, [{"x": e, "y": e} for e in ends], x=x, y=y),
        layer({"type": "point", "size": 24, "opacity": 1}, points, x=x, y=y, **channels),
    ]
    title = f"{len(points)} networks that no fit has seen"
    Figure(title, {"height": 480, "layer": layers}).save(folder / "networks.png")


if __name__ == "__main__":
    main()
