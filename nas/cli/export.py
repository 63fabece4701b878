"""`nas export`: write a run's network as files for a phone, a server or another framework."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, emit, next_step, say, table_text
from nas.export.options import ExportOptions
from nas.tasks import metric_words

if TYPE_CHECKING:
    from nas.export.run import Exported
    from nas.runs.resolve import Source


def export(options: ExportOptions) -> None:
    """Run `nas export`, print the written files and name `nas check` as the next step."""
    from nas.export.command import perform

    run = options.run
    # Before anything is written: a damaged run.yaml is refused with nothing left behind.
    device = _device(Path(run))
    source, exported = perform(options, note=say)
    following = shlex.join(["nas", "check", measurable(run, device, exported), "--device", device])
    emit(_document(source, exported, following), _text(source, exported))
    next_step(following)


def _device(run: Path) -> str:
    """Return the (first) device of a run's search; "host" for an architecture without a run."""
    from nas.files import YamlFile

    description = run / "run.yaml"
    if not description.is_file():
        return "host"
    data = YamlFile(description).data
    devices = data.get("devices")
    first = devices[0] if isinstance(devices, list) and devices else data
    table = first.get("table") if isinstance(first, dict) else None
    name = table.get("device") if isinstance(table, dict) else None
    return name if isinstance(name, str) else "host"


def measurable(run: str, device: str, exported: Exported) -> str:
    """Return what `nas check` measures: the network of the run, or a file, which needs no table."""
    from nas.latency.table import table_names

    litert = exported.targets.get("litert")
    if litert is None or device != "host" or device in table_names():
        return run
    return str(exported.folder / litert["file"])


def _document(source: Source, exported: Exported, following: str) -> dict[str, Any]:
    """Return the exported files as plain data, for --json."""
    keys = ("file", "bytes", "seconds", "differences", "accuracy", "inspected", "note")
    return {
        "run": source.run,
        "architecture": source.architecture.name,
        "folder": str(source.folder),
        "weights": {
            "provenance": source.provenance,
            "file": str(source.weights) if source.weights else None,
        },
        "targets": {
            name: {
                **{key: entry[key] for key in keys if key in entry},
                "skipped": name in exported.skipped,
            }
            for name, entry in exported.targets.items()
        },
        "next": following,
    }


def _text(source: Source, exported: Exported) -> str:
    """Return the table of exported files."""
    rows = []
    for name, entry in exported.targets.items():
        line = ""
        apart = entry.get("differences", {})
        # Random images are unlike the training data, so differences on real images are preferred.
        kind = "real" if "real" in apart else "random"
        if apart and apart[kind]["max_abs"] is None:
            line = f"the same class for {apart[kind]['top1_agreement']:.2f} % of pixels ({kind} images)"
        elif apart:
            line = f"logits differ by at most {apart[kind]['max_abs']:.2g} on {kind} images"
            if kind == "real":
                line += (
                    f", top-1 agrees with the float32 network's on"
                    f" {apart[kind]['top1_agreement']:.1f} % of {apart[kind]['images']}"
                )
        if "accuracy" in entry:
            accuracy = entry["accuracy"]
            metric = metric_words(accuracy.get("metric", "accuracy"))
            line += (
                f"; {metric} {accuracy['before']:.1f} % before, {accuracy['after']:.1f} % after"
                f" ({accuracy['images']} images)"
            )
        line += f"  ({entry['note']})" if "note" in entry else ""
        rows.append((name, entry["file"], f"{entry.get('bytes', 0) / 1e6:.2f} MB", line.strip()))
    head = f"{source.architecture.name or 'network'}, {source.provenance} weights: {source.folder}"
    columns = (Column(), Column(), Column(right=True), Column())
    return "\n".join([head, table_text(columns, rows, header=False)] if rows else [head])
