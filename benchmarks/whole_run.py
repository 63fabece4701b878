"""Run one space from table and supernet to measured files, beside a published member. Prints JSON.

    python benchmarks/whole_run.py SPACE --supernet SUPERNET --table TABLE --data DATA --keep FOLDER
        [--epochs 5]

It runs the commands that a user runs: `nas search`, `nas finetune`, `nas export`, `nas check`, `nas
report`. The search is for the latency of the smallest published member on the table's device, and for
no more parameters than it has: where images are small, latency depends on parameters more than a
table knows. The published member inherits its weights from the same supernet and is fine-tuned by the
same recipe. Both are evaluated on the data's test images, and measured by turns on this computer.
FOLDER keeps the results, and the same command resumes there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import nas
from nas.convert.chain import Chain
from nas.devices import Settings
from nas.latency.known_devices import opened
from nas.space import Architecture
from nas.supernet.checkpoint import extract_to, open_folder
from nas.versions import versions

TURNS = 20
TARGETS = "config,torch,onnx,litert,litert-int8"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("space")
    parser.add_argument("--supernet", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--engine", default="slimming")
    parser.add_argument(
        "--search", default="", help="further options of `nas search`, as one word, split at blanks"
    )
    arguments = parser.parse_args()
    keep: Path = arguments.keep
    keep.mkdir(parents=True, exist_ok=True)
    found = keep / "found"
    published = keep / "published"
    shape = smallest_published(arguments.supernet, published)
    table = nas.load_table(arguments.table).calibrated(shape.space, shape.resolution)
    if not (found / "run.yaml").exists():
        run(
            "search",
            "--space",
            arguments.space,
            "--device",
            arguments.table,
            "--supernet",
            arguments.supernet,
            "--latency-ms",
            f"{table.total_ms(shape):.5f}",
            "--params",
            str(shape.params),
            "--engine",
            arguments.engine,
            "--front",
            "--out",
            str(found),
            *arguments.search.split(),
        )
    recipe = [
        "--data",
        arguments.data,
        "--epochs",
        str(arguments.epochs),
        "--mix",
        "0",
        "--learning-rate",
        "1e-3",
    ]
    run("finetune", str(found), *recipe)
    run(
        "finetune",
        str(published / "architecture.yaml"),
        "--init",
        str(published / "weights.safetensors"),
        "--out",
        str(published / "finetune"),
        *recipe,
    )
    if not (found / "export" / "export.yaml").exists():
        run("export", str(found), "--to", TARGETS, "--data", arguments.data)
    run("check", str(found), "--device", arguments.table)
    networks = {"found": nas.load_architecture(found / "architecture.yaml"), "published": shape}
    measured = by_turns(networks)
    rows = {
        name: {
            "name": arch.name,
            "widths": arch.widths,
            "depths": arch.depths,
            "macs": arch.macs,
            "params": arch.params,
            "predicted_ms": round(table.total_ms(arch), 5),
            "measured_ms": round(measured[name], 5),
            "test": accuracies(outcome["accuracy"]["test"]),
            "held_out": accuracies(outcome["accuracy"]["held_out"]),
        }
        for name, arch in networks.items()
        for outcome in [yaml.safe_load((keep / name / "finetune" / "finetune.yaml").read_text())]
    }
    run("report", str(found))
    print(
        json.dumps(
            {
                "space": arguments.space,
                "supernet": arguments.supernet,
                "epochs": arguments.epochs,
                "networks": rows,
                "table": f"{table.provenance}, {table.device.soc}",
                "expected_error": table.expected_error,
                "exports": (
                    yaml.safe_load((found / "export" / "export.yaml").read_text()).get("targets")
                ),
                "versions": versions("torch", "litert-torch", "ai-edge-litert"),
            },
            indent=2,
            default=str,
        )
    )


def run(*arguments: str) -> None:
    """Run a command of `nas`, with its output on stderr."""
    print("nas", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "nas", *arguments], stdout=sys.stderr, check=True)


def smallest_published(supernet: str, folder: Path) -> Architecture:
    """Return the space's smallest published member at the supernet's sizes.

    The weights that it inherits are written into `folder`.
    """
    space = open_folder(supernet)[2]
    member = min(space.published.values(), key=lambda each: each.params)
    folder.mkdir(exist_ok=True)
    member.save(folder / "architecture.yaml")
    if not (folder / "weights.safetensors").exists():
        extract_to(supernet, member, folder / "weights.safetensors")
    return member


def by_turns(networks: dict[str, Architecture]) -> dict[str, float]:
    """Return the lowest of several measurements of each network, taken by turns, in ms."""
    with opened("host", Settings()) as devices:
        host = devices[0]
        files = {
            name: host.prepare(Chain.network(arch.operations())).result()
            for name, arch in networks.items()
        }
        times: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(TURNS):
            for name, file in files.items():
                times[name].append(host.measure(file).median_ms)
    return {name: min(each) for name, each in times.items()}


def accuracies(judged: dict[str, Any]) -> dict[str, float]:
    """Return the top-1 in percent on one set of images in a `finetune.yaml`.

    It is given before training, after it, and for averaged weights.
    """
    return {name: each["accuracy"] for name, each in judged.items() if name != "source"}


if __name__ == "__main__":
    main()
