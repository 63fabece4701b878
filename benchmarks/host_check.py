"""How long a host table takes from nothing, and how well it predicts whole networks. Prints JSON.

    python benchmarks/host_check.py [--space efficientformer] [--nets 20] [--keep FOLDER]

Runs `nas profile` and `nas check` with an empty cache of converted files. With --keep the table stays in FOLDER.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="efficientformer")
    parser.add_argument("--nets", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = (options.keep or Path(scratch) / "host").resolve()
        environment = os.environ | {"XDG_CACHE_HOME": scratch}
        profile = nas(["profile", "--space", options.space, "--device", "host", "--out", str(table)], environment)
        begin = time.perf_counter()
        check = nas(
            ["check", "--space", options.space, "--device", str(table), "--nets", str(options.nets)], environment
        )
        seconds = {"profile": profile["seconds"], "check": round(time.perf_counter() - begin, 1)}
    found = versions("torch", "litert-torch", "ai-edge-litert")
    print(json.dumps({"seconds": seconds, "check": check, "profile": profile, "versions": found}, indent=2))


def nas(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "nas", *arguments, "--json"]
    document: dict[str, Any] = json.loads(
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    )
    return document


if __name__ == "__main__":
    main()
