"""Measure how long a host table takes and how well it predicts networks. Prints JSON.

    python benchmarks/host_check.py [--spaces efficientformer swiftformer ...] [--nets 24]
        [--keep FOLDER]

It starts with an empty cache of converted files, and runs `nas profile` and `nas check` for one space
after the other into one table. With --keep the table stays in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nas.versions import versions

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
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
