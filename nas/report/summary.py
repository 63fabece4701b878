"""Cards and sentences at the top of a report: the result of a run and the sources of its figures.

`nas.report.page` calls `tiles`, `meaning`, `rests_on` and `comparing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from nas.report.run import RunReport
from nas.report.training import TEST, Fit
from nas.report.words import LIMITS, accuracy_text, below, dashed, ms_text, size_text
from nas.runs.schema import About, Member, UsedImagesRecord
from nas.tasks import metric_words

SAME = 0.005
"""Smallest difference in accuracy, in points, that is reported: below it two decimals show 0.00."""

_DIGITS = 12
"""Digits of a hash that a report shows."""


@dataclass(frozen=True)
class Tile:
    """A card of the report: one figure with its label and a line on it, as text."""

    label: str
    value: str
    about: str


def tiles(run: RunReport) -> tuple[Tile, ...]:
    """Return the cards of a run: latency, accuracy, size, and later measurements."""
    result = run.about.result
    asked = _asked(run)
    found = [Tile("Latency", ms_text(result), f"predicted on {run.device}; {asked}")]
    check = run.breakdown
    if check and check.measured_ms is not None:
        error = (
            ""
            if check.error_percent is None
            else f"; the prediction is {check.error_percent:+.1f} % off"
        )
        found.append(Tile("Measured", f"{check.measured_ms:.4g} ms", f"on {check.device}{error}"))
    found += [accuracy_tile(run), *_measured_tiles(run)]
    found.append(
        Tile(
            "Parameters",
            f"{result.params / 1e6:.2f} M",
            f"{result.macs / 1e9:.3f} G multiply-accumulates",
        )
    )
    return tuple(found)


def tiles_of_several(runs: Sequence[RunReport]) -> tuple[Tile, ...]:
    """Return the cards of a search on several devices.

    They show the common member, or the best member on each device where no member is common.
    """
    common = bool(runs[0].about.common)
    found = []
    for run in runs:
        result = run.about.result
        label = f"Latency on {run.device}" if common else f"Best on {run.device}"
        accuracy = "" if common else f"; {accuracy_tile(run).value}"
        found.append(Tile(label, ms_text(result), f"predicted; {_asked(run)}{accuracy}"))
    result = runs[0].about.result
    if common:
        found.append(accuracy_tile(runs[0]))
        found.append(
            Tile(
                "Parameters",
                f"{result.params / 1e6:.2f} M",
                f"{result.macs / 1e9:.3f} G multiply-accumulates",
            )
        )
    return tuple(found)


def accuracy_tile(run: RunReport) -> Tile:
    """Return the card of the expected accuracy.

    Where only costs are known it shows the points below the largest member.
    """
    result = run.about.result
    if result.accuracy is None:
        return Tile(
            "Expected accuracy",
            below(result.cost),
            "the space's largest member; these scores have no absolute accuracy",
        )
    law = run.about.scores.kind == "law"
    outside = (
        f"; extrapolated: {', '.join(result.accuracy.reasons)}" if result.accuracy.reasons else ""
    )
    name = metric_words(result.accuracy.metric)
    of = f"ImageNet {name}" if law else f"{name} on the supernet's images"
    return Tile(
        "Expected accuracy", accuracy_text(result.accuracy), f"{of} ± one standard error{outside}"
    )


def _measured_tiles(run: RunReport) -> Iterator[Tile]:
    result = run.about.result
    if result.evaluated is not None and result.drop is not None:
        metric = metric_words(run.about.scores.metric)
        about = f"{metric} of its slice; {below(result.drop)} the largest member"
        yield Tile("Accuracy in the supernet", f"{result.evaluated:.2f} %", about)
    for fit in run.fits:
        if fit.best:
            about = f"{fit.best.metric} on {fit.best.images} {fit.best.part}"
            yield Tile(
                f"Accuracy, {fit.name}",
                f"{fit.best.accuracy:.2f} ± {fit.best.standard_error:.2f} %",
                about,
            )


def _asked(run: RunReport) -> str:
    """Return the request of a search as text: the target and the limits."""
    target = run.about.target
    asked = [] if target.latency_ms is None else [f"target {target.latency_ms:.4g} ms"]
    if target.min_accuracy is not None:
        asked.append(f"at least {target.min_accuracy:g} %")
    if target.max_drop is not None:
        asked.append(f"at most {target.max_drop:g} points below the largest member")
    asked += [f"at most {LIMITS[name](most)}" for name, most in target.limits.items()]
    return ", ".join(asked) or "no target"


def meaning(runs: Sequence[RunReport]) -> tuple[str, ...]:
    """Return sentences on the request, the result, and the proven optimum.

    Args:
        runs: of one folder, one per device.
    """
    about = runs[0].about
    asked = " and ".join(f"{_limits(run)} on {run.device}" for run in runs)
    if about.common is False:
        found = [
            f"The most accurate member on {run.device} has {_shape(run.about.result)}."
            for run in runs
        ]
        return (f"Request: {asked}. No member meets all of it: {about.reason}. {' '.join(found)}",)
    sentence = (
        f"Request: {asked}. The engine '{about.engine.name}' found a member of space"
        f" '{about.space.name}' with {_shape(about.result)}."
    )
    further = (_frozen(about), _sizes(about), _optimum(runs[0]))
    return (sentence, *(text for text in further if text))


def _frozen(about: About) -> str:
    """Return the sentence on the parts that were not searched, or "" where all were."""
    if not about.space.frozen:
        return ""
    parts = ", ".join(about.space.frozen)
    return f"Frozen parts: {parts}. They are as in {about.space.start}."


def _sizes(about: About) -> str:
    """Return the sentence on the answers at several input sizes, or "" for a search of one."""
    answers = []
    for each in about.sizes:
        size = size_text(each.resolution)
        if each.latency_ms is None:
            answers.append(f"{size} none ({each.reason})")
            continue
        value = "" if each.accuracy is None else f"{accuracy_text(each.accuracy)} at "
        chosen = ", which was chosen" if each.chosen else ""
        answers.append(f"{size} has {value}{each.latency_ms:.4g} ms{chosen}")
    return f"The search also chose the input size: {'; '.join(answers)}." if answers else ""


def _limits(run: RunReport) -> str:
    """Return the limits of a search on a device as text, with the reason of a latency target."""
    target = run.about.target
    limits = (
        [f"at most {target.latency_ms:.4g} ms ({target.reason})"]
        if target.latency_ms is not None
        else []
    )
    if target.min_accuracy is not None:
        limits.append(f"at least {target.min_accuracy:g} % expected accuracy")
    if target.max_drop is not None:
        limits.append(f"at most {target.max_drop:g} points below the largest member")
    limits += [f"at most {LIMITS[name](most)}" for name, most in target.limits.items()]
    return " and ".join(limits) or "no limit"


def _shape(member: Member) -> str:
    return (
        f"widths {dashed(member.widths)}, depths {dashed(member.depths)} and attention blocks "
        f"{dashed(member.attention)} in its {len(member.widths)} stages"
    )


def _optimum(run: RunReport) -> str:
    """Return a sentence that compares the result with the proven optimum, or "" without one."""
    target = run.about.target
    result = run.about.result
    # The target may be a member's own latency: rounding must not shut that member out.
    within = [point for point in run.front.points if point.ms <= run.front.target_ms * (1 + 1e-9)]
    fastest_asked = target.min_accuracy is not None or target.max_drop is not None
    if (
        not isfinite(run.front.target_ms)
        or not within
        or fastest_asked
        or run.about.common is not None
        # The front of several sizes counts its costs from another member than the result's.
        or run.about.sizes
    ):
        return ""
    limits = "limits" if target.limits else "target"
    # A front is ordered by the cost that the search minimises, so its slowest member within the
    # target is the best one.
    best = within[-1]
    missed = result.cost - best.cost
    if result.evaluated is not None:
        if missed < SAME:
            return f"By these scores, no member within the {limits} is more accurate."
        return (
            f"By these scores, the best member within the {limits} takes {best.ms:.4g} ms and is"
            f" {best.cost:.2f} points below the largest member, {missed:.2f} points better than"
            " this network. This network was chosen by its accuracy in the supernet."
        )
    if run.about.engine.name == "exact":
        cautious = (
            "" if run.about.scores.kind == "recorded" else " minus a margin for extrapolation"
        )
        return (
            f"It is the proven optimum within the {limits}, up to ties, by expected"
            f" accuracy{cautious}."
        )
    if missed < SAME:
        return (
            f"It is the proven optimum: by these scores, no member within the {limits} is more"
            " accurate."
        )
    return (
        f"The proven optimum within the {limits} is {missed:.2f} points more accurate and takes"
        f" {best.ms:.4g} ms (nas search --engine exact finds it)."
    )


def rests_on(run: RunReport) -> tuple[tuple[str, str], ...]:
    """Return the sources of the figures: pairs of a heading and one line."""
    sources = [("Accuracy", _accuracy_line(run)), ("Latency", _latency_line(run))]
    if run.about.images is not None:
        sources.append(("Images", f"search: {_used(run.about.images)}."))
    sources += [
        (f"Images, {fit.name}", f"{_used(fit.images)}; {_tested(fit)}.")
        for fit in run.fits
        if fit.images is not None
    ]
    return tuple(sources)


def _used(images: UsedImagesRecord) -> str:
    """Return the numbers of images that a network was trained on and chosen by, with their hash."""
    text = (
        f"trained on {images.trained} images, chosen by {images.held_out} held-out ones"
        f" (images.csv, SHA-256 {images.sha256[:_DIGITS]})"
    )
    if images.unknown:
        text += f"; the images of {', '.join(images.unknown)} are not recorded"
    return text


def _tested(fit: Fit) -> str:
    """Return how the reported images of a fine-tuning relate to those it was chosen by."""
    test = next((each for each in fit.results if each.part == TEST), None)
    if test is None:
        return (
            "it has no test images, so its accuracy is on the held-out ones that it was chosen by"
        )
    assert fit.images is not None
    left_out = fit.images.left_out_of_test
    none = f"none of the {test.images} test images is among them"
    count = left_out.trained + left_out.held_out
    if not count:
        return none
    return (
        f"{none}: {count} were left out of the test ({left_out.trained} trained on,"
        f" {left_out.held_out} held out)"
    )


def _accuracy_line(run: RunReport) -> str:
    scores = run.about.scores
    text = scores.provenance
    recorded = run.recorded
    if recorded is not None and recorded.baseline_accuracy is not None and recorded.images:
        text += (
            f"; the largest member has {recorded.baseline_accuracy:.1f} % on these"
            f" {recorded.images} images"
        )
    if recorded is not None and recorded.scored.resolution != run.architecture.resolution:
        text += (
            f"; measured at {size_text(recorded.scored.resolution)} with {recorded.scored.classes}"
            f" classes (this network: {size_text(run.architecture.resolution)} with"
            f" {run.architecture.classes})"
        )
    if run.about.score_by.judge:
        text += f"; members were evaluated by {run.about.score_by.judge}"
    return f"{text}."


def _latency_line(run: RunReport) -> str:
    table = run.about.table
    result = run.about.result
    error = (
        "not checked on whole networks"
        if table.expected_error is None
        else f"expected error {table.expected_error:.1f} % ({table.expected_error_source})"
    )
    priced = (
        f"; {100 * result.priced:.0f} % of the latency has no row and is priced by the cost model"
        if result.priced
        else ""
    )
    return (
        f"{table.provenance} table of {table.device}, {table.soc}, {table.runtime};"
        f" {error}{priced}."
    )


def comparing(runs: Sequence[RunReport]) -> tuple[str, ...]:
    """Return warnings about comparisons between these runs."""
    notes = []
    if len({run.device for run in runs}) > 1:
        notes.append("The runs are for different devices: compare latencies on one device only.")
    absolute = all(run.about.result.accuracy is not None for run in runs)
    law = {run.about.scores.kind for run in runs} == {"law"}
    same = {
        (run.about.space.name, run.about.scores.sha256, run.about.scores.fingerprint)
        for run in runs
    }
    if len(same) > 1 and not (absolute and law):
        notes.append(
            "The accuracies are from different scores: compare them within one run, or after"
            " fine-tuning."
        )
    return tuple(notes)
