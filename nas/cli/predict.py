"""`nas predict`: predict an architecture's latency per operation from a device's table.

With --image it classifies a photo with an exported file instead.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.output import Column, emit, naming, next_step, say, table_text
from nas.latency.options import PredictOptions
from nas.space.sizes import Sizes, between

if TYPE_CHECKING:
    from nas.accuracy import Accuracy
    from nas.latency import Estimate, LatencyTable
    from nas.space import Architecture


def predict(options: PredictOptions) -> None:
    """Predict an architecture's latency from a device's table, or the class of a photo."""
    from nas.errors import InputError
    from nas.latency import load_table
    from nas.search.description import accuracy_row
    from nas.search.limits import rounded
    from nas.space import load_architecture, space_names

    if options.image is not None:
        return _classify(options, options.image)
    asked = options.sizes
    device = options.device
    if device is None:
        exported = Path(options.arch).suffix.lower() in (".tflite", ".onnx", ".mlpackage")
        fix = "--image PHOTO classifies a photo with this file" if exported else "--device NAME"
        raise InputError(f"--device: is missing. Fix: {fix}")
    table = load_table(device)
    network = asked.apply(load_architecture(options.arch))
    estimate = table.predict(network)
    effective = _sizes(network, asked)
    if estimate.missing:
        with naming(effective):
            raise table.missing_rows(estimate.missing, network.space)
    following = ["nas", "check", "--device", device]
    if network.space not in space_names():
        # Without its space there are no other members to search or to draw.
        following.append(options.arch)
    elif estimate.provenance == "estimated":
        following = ["nas", "search", "--space", network.space, "--device", device]
        # Rounded up: the network itself, which may be the fastest one, must be within.
        following += ["--latency-ms", rounded(estimate.ms, up=True), *effective.options()]
    elif effective.options():
        following += ["--space", network.space, *effective.options()]
    accuracy = _accuracy(network)
    document = {
        **_document(network, table, estimate, shlex.join(following)),
        "accuracy": accuracy_row(accuracy) if accuracy else None,
    }
    emit(document, "\n".join([_text(network, table, estimate), *_accuracy_lines(accuracy)]))
    next_step(shlex.join(following))


def _classify(options: PredictOptions, image: Path) -> None:
    """Print the most probable classes of a photo."""
    from nas.data.decoding import ODDITIES
    from nas.export.classify import classify
    from nas.option_values import only

    only(options, ("arch", "image", "top"), "--image classifies a photo")
    found = classify(Path(options.arch), image, options.top)
    height, width = found.resolution
    for oddity in found.oddities:
        say(f"note: {image} is an image {ODDITIES[oddity].partition(',')[0]}")
    rows = [(guess.label, f"{100 * guess.probability:.1f} %") for guess in found.guesses]
    columns = (Column("class"), Column("probability", right=True))
    head = (
        f"{image} at {width}x{height} by {found.network or 'the network'} in {found.file}, of"
        f" {found.classes} classes:"
    )
    document = {
        "file": str(found.file),
        "image": str(image),
        "network": found.network,
        "resolution": list(found.resolution),
        "classes": [
            {"label": guess.label, "probability": guess.probability} for guess in found.guesses
        ],
    }
    emit(document, "\n".join([head, table_text(columns, rows)]))
    next_step(shlex.join(["nas", "check", options.arch, "--device", "host"]))


def _accuracy(network: Architecture) -> Accuracy | None:
    """Return the expected accuracy of a member of a known space.

    Return None for other networks, and where the scores only know differences between members.
    """
    from nas.accuracy import default_scores
    from nas.space import load_space, space_names

    if network.space not in space_names():
        return None
    space = load_space(network.space)
    if not space.contains(network):
        return None
    scores = default_scores(space).at(space.at(network.resolution))
    return scores.accuracy(network) if scores.absolute else None


def _accuracy_lines(accuracy: Accuracy | None) -> list[str]:
    """Return the lines on the expected accuracy and its source."""
    if accuracy is None:
        return []
    error = "" if accuracy.published else f" ± {accuracy.standard_error:.1f}"
    without = (
        f" (predicted without it: {accuracy.predicted:.1f} ± {accuracy.predicted_error:.1f})"
        if accuracy.predicted is not None and accuracy.predicted_error is not None
        else ""
    )
    lines = [
        f"accuracy {accuracy.value:.1f}{error} % {accuracy.metric}{without}: {accuracy.source}"
    ]
    if accuracy.reasons:
        lines.append(f"extrapolated, so its error is larger: {'; '.join(accuracy.reasons[:2])}")
    return lines


def _sizes(network: Architecture, asked: Sizes) -> Sizes:
    """Return the sizes at which the network's space contains it.

    For an unknown space these are the requested sizes.
    """
    from nas.space import load_space, space_names

    known = network.space in space_names()
    return between(load_space(network.space), network) if known else asked


def _document(
    arch: Architecture, table: LatencyTable, estimate: Estimate, following: str
) -> dict[str, Any]:
    """Return the prediction as plain data, for --json."""
    return {
        "architecture": arch.name,
        "space": arch.space,
        "device": table.device.name,
        "ms": estimate.ms,
        "standard_error": estimate.standard_error,
        "priced": estimate.priced,
        "provenance": estimate.provenance,
        "expected_error": estimate.expected_error,
        "expected_error_source": table.expected_error_source,
        "leave_one_out_error": table.leave_one_out_error,
        "calibrated_error": table.calibrated_error,
        "params": arch.params,
        "macs": arch.macs,
        "breakdown": [
            {
                "name": bar.name,
                "kind": bar.kind,
                "ms": bar.ms,
                "provenance": bar.provenance,
                "key": list(bar.key),
            }
            for bar in estimate.breakdown
        ],
        "next": following,
    }


def _text(arch: Architecture, table: LatencyTable, estimate: Estimate) -> str:
    """Return the table of operations, and the lines on the network's latency and its error."""
    expected = "unknown" if estimate.expected_error is None else f"{estimate.expected_error:.1f} %"
    spread = "" if estimate.standard_error is None else f" ± {estimate.standard_error:.3f}"
    rows = [
        (
            bar.name,
            bar.kind,
            f"{bar.ms:.4f}",
            f"{_share(bar.ms, estimate.ms):.1f} %",
            bar.provenance,
        )
        for bar in estimate.breakdown
    ]
    figures = (Column("ms", right=True), Column("share", right=True))
    lines = [
        table_text((Column("operation"), Column("kind"), *figures, Column("rows")), rows),
        (
            f"{arch.name or 'architecture'} on {table.device.name}: {estimate.ms:.3f}{spread} ms,"
            f" {estimate.provenance}, {arch.params / 1e6:.2f} M parameters, {arch.macs / 1e9:.3f} G"
            " MACs"
        ),
    ]
    if estimate.priced:
        lines.append(
            f"priced: {100 * estimate.priced:.0f} % of the latency has no row in the table and"
            " comes from its cost model"
        )
    lines.append(f"expected error {expected} ({table.expected_error_source})")
    return "\n".join(lines)


def _share(ms: float, total: float) -> float:
    """Return the share of an operation in the whole latency, in percent."""
    return 100 * ms / total if total else 0.0
