"""`nas.export`: writes a run's network as files for phones, servers, or other frameworks.

The command `nas export` calls `perform`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from nas.errors import InputError, NasError
from nas.export import chosen, load_target
from nas.export.options import ExportOptions
from nas.export.run import Exported
from nas.export.run import export as write
from nas.option_values import make, words
from nas.runs.resolve import Source, find_source


def export(
    run: str | Path, to: str | Sequence[str] = ("config", "torch", "litert"), **options: Any
) -> Exported:
    """Export a network to files and compare their outputs with the network's.

    Batch norms are folded; normalisation and class names are inside the files.

    Args:
        run: a run's folder, an architecture's YAML file, or a published member.
        to: targets, as a list or separated by commas.
        options: the other options of `nas export`, with `_` for `-`: `data="photos/",
            weights="b.pth", out="files"`.

    Returns:
        The files and their differences by target, and their folder.

    Raises:
        InputError: for an option that is unknown, out of range or without effect, and for a bad
            run, bad weights or bad data.
        NasError: naming each target that has no file, with the reason.
    """
    if not isinstance(to, str):
        if not isinstance(to, Collection) or not all(isinstance(name, str) for name in to):
            raise InputError(f"to: expected targets (got {str(to)[:40]!r}). Fix: to='litert,torch'")
        to = ",".join(to)
    return perform(make(ExportOptions, {"run": run, "to": to, **options}))[1]


def perform(
    options: ExportOptions, note: Callable[[str], None] = lambda line: None
) -> tuple[Source, Exported]:
    """Export as the options of `nas export` say; `note` is called with lines for the user."""
    targets = chosen(filter(None, options.to.replace(" ", "").split(",")))
    _check_calibrate(options, targets)
    source = find_source(options.run, options.weights, options.out)
    if source.weights is None:
        note(
            f"warning: {options.run} has no weights, so the exported files have random ones, for"
            " timing only. Fix: --weights FILE"
        )
    _check_output(options, source)
    real = None
    if options.data is not None:
        from nas.export.images import load_images

        dense = source.architecture.head.layout == "pyramid"
        held_out, seed = source.split(options.data)
        real = load_images(
            options.data,
            source.architecture.resolution,
            options.limit,
            options.calibrate,
            held_out=held_out,
            seed=seed,
            background=source.background,
            masks=dense,
        )
        source = source.named(real.evaluated.classes)
        real = real.labelled_by(source.classes)
    exported = write(source, targets, real, note, words("export", options), output=options.output)
    if exported.failed:
        raise NasError("; ".join(exported.failed.values()))
    return source, exported


def _check_output(options: ExportOptions, source: Source) -> None:
    """Raise InputError for --output with a classifier, which has one output."""
    if "output" in options.given and source.architecture.head.layout != "pyramid":
        raise InputError(
            f"{options.where('output')}: has no effect on a classifier (requires a segmentation"
            " network). Fix: leave out --output"
        )


def _check_calibrate(options: ExportOptions, targets: list[str]) -> None:
    """Raise InputError for --calibrate where no target takes activation ranges from images."""
    if "calibrate" in options.given and not any(load_target(name).calibrated for name in targets):
        raise InputError(
            f"{options.where('calibrate')}: has no effect here (requires a target with int8 in"
            " --to). Fix: leave out --calibrate"
        )
