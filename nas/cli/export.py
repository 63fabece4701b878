"""`nas export`: a run's network as files for a phone, a server, or another framework."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.common import Json, emit, next_step, say
from nas.cli.table import Column, table_text
from nas.export import TARGETS, chosen

if TYPE_CHECKING:
    from nas.export.run import Exported
    from nas.export.source import Source


def export(
    run: Annotated[str, typer.Argument(help="A run's folder, an architecture's YAML file, or a published member.")],
    to: Annotated[
        str, typer.Option(help=f"Targets, separated by commas: {', '.join(TARGETS)}.")
    ] = "config,torch,litert",
    data: Annotated[
        str | None, typer.Option(help="Images to calibrate, to compare and to count accuracy on, as `nas train` takes.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Images to compare and to count accuracy on, at most.")] = 500,
    calibrate: Annotated[int, typer.Option(min=1, help="Training images for the ranges of int8, at most.")] = 128,
    weights: Annotated[
        Path | None,
        typer.Option(help="A weight file to take instead of the run's own: ours or a published checkpoint."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder; RUN/export by default.")] = None,
    as_json: Json = False,
) -> None:
    """Export a network: batch norms folded, normalisation and class names inside, compared with the original.

    What is there and whole is not made again.
    """
    from nas.errors import NasError
    from nas.export.images import load_images
    from nas.export.run import export as write
    from nas.export.source import find_source

    targets = chosen(filter(None, to.replace(" ", "").split(",")))
    source = find_source(run, weights, out)
    if source.weights is None:
        say(f"warning: {run} has no weights; what is exported has random ones, good for timing alone (--weights FILE)")
    real = None
    if data is not None:
        real = load_images(data, source.architecture.resolution, limit, calibrate, source.held_out, source.seed)
        if source.architecture.head.layout != "pyramid":
            source = source.named(real.judged.classes)
    exported = write(source, targets, real, report=say)
    if exported.failed:
        raise NasError("; ".join(exported.failed.values()))
    following = shlex.join(["nas", "check", run, "--device", _device(Path(run))])
    emit(_document(source, exported, following), as_json, _text(source, exported))
    next_step(following)


def _device(run: Path) -> str:
    """Return the device that a run was searched for; this machine for an architecture without a run."""
    from nas.files import YamlFile

    description = run / "run.yaml"
    if not description.is_file():
        return "host"
    return str(YamlFile(description).data.get("table", {}).get("device", "host"))


def _document(source: Source, exported: Exported, following: str) -> dict[str, Any]:
    keys = ("file", "bytes", "seconds", "differences", "accuracy", "inspected", "note")
    return {
        "run": source.run, "architecture": source.architecture.name, "folder": str(source.folder),
        "weights": {"provenance": source.provenance, "file": str(source.weights) if source.weights else None},
        "targets": {
            name: {**{key: entry[key] for key in keys if key in entry}, "skipped": name in exported.skipped}
            for name, entry in exported.targets.items()
        },
        "next": following,
    }  # fmt: skip


def _text(source: Source, exported: Exported) -> str:
    rows = []
    for name, entry in exported.targets.items():
        line = ""
        apart = entry.get("differences", {})
        kind = "real" if "real" in apart else "random"
        if apart:
            line = f"logits differ by {apart[kind]['max_abs']:.2g} at most on {kind} images"
        if "accuracy" in entry:
            found = entry["accuracy"]
            line += f"; {found['before']:.1f} % right before, {found['after']:.1f} % after ({found['images']} images)"
        line += f"  ({entry['note']})" if "note" in entry else ""
        rows.append((name, entry["file"], f"{entry['bytes'] / 1e6:.2f} MB", line.strip()))
    head = f"{source.architecture.name or 'network'}, {source.provenance} weights: {source.folder}"
    columns = (Column(), Column(), Column(right=True), Column())
    return "\n".join([head, table_text(columns, rows, header=False)] if rows else [head])
