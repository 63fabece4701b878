"""Comparison of the found network with published members, and of predictions with measurements.

`nas.report.page` shows them as tables, and the best published member as a card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot

from nas.report.breakdown import Rival
from nas.report.points import Point
from nas.report.run import RunReport
from nas.report.training import Accuracy, Fit
from nas.report.words import (
    accuracy_text,
    below,
    dashed,
    difference_text,
    ms_text,
    signed,
    with_error,
)
from nas.runs.schema import About, Difference, ExpectedAccuracy, Member
from nas.tasks import metric_words

IMAGENET_CLASSES = 1000
"""Number of classes of ImageNet-1k, whose top-1 the accuracy law predicts."""


@dataclass(frozen=True)
class Otherwise:
    """The alternative to the found network: the best published member that meets all limits.

    Attributes:
        name: of the member; empty where no published member meets them.
        figures: its latency, accuracy and size, as text.
        verdict: sentences that compare the found network with it.
    """

    name: str
    figures: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class Row:
    """A row of the table of members; every value is text.

    Attributes:
        latency: for each device the latency, and whether the member meets the limits there.
        predicted: the prediction for a published accuracy, made without this result; else empty.
        difference: points by which the found network is expected to be more accurate.
        shape: widths, depths and attention blocks of the stages.
        found: whether the search found this member.
    """

    name: str
    latency: tuple[tuple[str, bool], ...]
    accuracy: str
    predicted: str
    difference: str
    params: str
    macs: str
    shape: str
    found: bool = False


@dataclass(frozen=True)
class Measurement:
    """A prediction and its measurement, as text.

    Attributes:
        what: the predicted quantity.
        difference: predicted minus measured.
        about: how it was measured.
    """

    what: str
    predicted: str
    measured: str
    difference: str
    about: str


def otherwise(runs: Sequence[RunReport]) -> Otherwise | None:
    """Return the best published member that meets the limits on every device.

    Args:
        runs: of one folder, one per device.

    Returns:
        The member; where none meets the limits, the one nearest in latency. None where no published
        member is known, or where each device has a network of its own.
    """
    about = runs[0].about
    if not about.published or about.common is False:
        return None
    # Each run lists the members that its device can run. An alternative has to run on all of them.
    everywhere = [
        name for name in about.published if all(name in run.about.published for run in runs)
    ]
    eligible = [
        name for name in everywhere if all(run.about.published[name].keeps_limits for run in runs)
    ]
    if not eligible:
        return _nearest(about)
    fastest = about.target.min_accuracy is not None or about.target.max_drop is not None
    best = min(eligible, key=lambda name: _rank(about.published[name], fastest))
    verdict = _verdict(about.result, about.published[best], len(runs) == 1)
    measured = _measured_verdict(runs[0], about.published[best])
    return Otherwise(best, _figures(best, runs), f"{verdict} {measured}" if measured else verdict)


def _measured_verdict(run: RunReport, other: Member) -> str:
    """Return a sentence that compares the fine-tuned network with a published accuracy.

    It is empty unless both were measured on the same images.
    """
    # `predicted` marks a published number. Against a prediction a measured accuracy proves nothing
    # about the other network.
    fit = next((fit for fit in run.fits if fit.best and _same_images(run, fit)), None)
    if (
        fit is None
        or fit.best is None
        or other.accuracy is None
        or other.accuracy.predicted is None
    ):
        return ""
    points = fit.best.accuracy - other.accuracy.value
    apart = Difference(
        points=points, standard_error=hypot(fit.best.standard_error, other.accuracy.standard_error)
    )
    if apart.tied:
        return f"After fine-tuning, it ties with this member ({difference_text(apart)})."
    better = "more" if points > 0 else "less"
    return f"After fine-tuning, it is {better} accurate ({difference_text(apart)})."


def _rank(member: Member, fastest: bool) -> tuple[float, float]:
    """Return the key by which members are sorted, best first: what the search minimised."""
    return (member.latency_ms, member.cost) if fastest else (member.cost, member.latency_ms)


def _nearest(about: About) -> Otherwise:
    """Return the card without a member: none meets the limits, and the nearest one in latency."""
    ms = about.result.latency_ms
    name, member = min(about.published.items(), key=lambda each: abs(each[1].latency_ms - ms))
    nearest = f"The nearest in latency, {name}, takes {ms_text(member)} on {about.table.device}."
    return Otherwise("", (nearest,), "No published member meets the limits.")


def _figures(name: str, runs: Sequence[RunReport]) -> tuple[str, ...]:
    members = [run.about.published[name] for run in runs]
    member = members[0]
    if len(runs) == 1:
        times = [ms_text(member)]
    else:
        times = [
            f"{ms_text(each)} on {run.device}" for each, run in zip(members, runs, strict=True)
        ]
    accuracy = below(member.cost) + " the largest member"
    if member.accuracy is not None:
        accuracy = f"{accuracy_text(member.accuracy)} {metric_words(member.accuracy.metric)}"
        accuracy += " (published)" if member.accuracy.predicted is not None else " (expected)"
    return (*times, accuracy, f"{member.params / 1e6:.2f} M parameters")


def _verdict(found: Member, other: Member, paced: bool) -> str:
    """Return a sentence that compares the found network with another member.

    A difference within its standard error is called a tie. With `paced`, speeds are compared too.
    """
    ending = f" and is {_pace(found.latency_ms, other.latency_ms)}." if paced else "."
    # Without a recorded difference the costs give the points. With no error, only equality ties.
    apart = other.difference or Difference(points=other.cost - found.cost, standard_error=0.0)
    if (found.widths, found.depths, found.params) == (other.widths, other.depths, other.params):
        return "The search found this member."
    if apart.tied:
        return f"The found network ties with this member ({difference_text(apart)}){ending}"
    better = "more" if apart.points > 0 else "less"
    return (
        f"The found network is expected to be {better} accurate ({difference_text(apart)}){ending}"
    )


def _pace(ms: float, other_ms: float) -> str:
    """Return how much slower or faster a latency is than another one, as text."""
    # Below 0.05 % the text would show 0.0 %.
    if abs(ms - other_ms) <= 0.0005 * other_ms:
        return "as fast"
    # A table of another program may have rows of 0 ms.
    share = f"{100 * abs(ms / other_ms - 1):.1f} % " if other_ms else ""
    return f"{share}{'slower' if ms > other_ms else 'faster'}"


def members(runs: Sequence[RunReport]) -> tuple[Row, ...]:
    """Return the table of the found and the published members, with the latency on every device.

    Args:
        runs: of one folder, one per device.
    """
    first = runs[0].about
    answers = {
        name: [run.about.answers.get(name) for run in runs]
        for run in runs
        for name in run.about.answers
    }
    if not answers:
        answers = {"found": [run.about.result for run in runs]}
    rows = [_row(name, each, found=True) for name, each in answers.items()]
    names = dict.fromkeys(name for run in runs for name in run.about.published)
    published = {name: [run.about.published.get(name) for run in runs] for name in names}
    # A member may be missing on a device that cannot run it, so the fastest of its devices decides.
    ordered = sorted(published.items(), key=lambda each: min(m.latency_ms for m in each[1] if m))
    prefix = f"{first.space.name}_"
    return (*rows, *(_row(name.removeprefix(prefix), each) for name, each in ordered))


def _row(name: str, on_devices: Sequence[Member | None], found: bool = False) -> Row:
    member = next(each for each in on_devices if each is not None)
    accuracy = f"{below(member.cost)} the largest"
    predicted = ""
    if member.accuracy is not None:
        accuracy = accuracy_text(member.accuracy)
        if member.accuracy.predicted is not None:
            without = with_error(
                member.accuracy.predicted, member.accuracy.predicted_error, "%", decimals=1
            )
            predicted = f"published; predicted {without}"
    apart = ""
    if not found and member.difference is not None:
        apart = f"{difference_text(member.difference)}{' (tie)' if member.difference.tied else ''}"
    shape = "; ".join(dashed(values) for values in (member.widths, member.depths, member.attention))
    latency = tuple(
        ("not run", True) if each is None else (ms_text(each), each.keeps_limits is not False)
        for each in on_devices
    )
    params = f"{member.params / 1e6:.2f} M"
    macs = f"{member.macs / 1e9:.3f} G"
    return Row(name, latency, accuracy, predicted, apart, params, macs, shape, found)


def measurements(run: RunReport) -> tuple[Measurement, ...]:
    """Return predictions with their measurements: latencies, and accuracies after fine-tuning."""
    result = run.about.result
    rows = []
    checks = [
        check for check in (run.breakdown, *run.others) if check and check.measured_ms is not None
    ]
    for check in checks:
        own = check.device == run.device
        error = result.latency_error if own else None
        rows.append(
            _latency_row(
                check.device, check.predicted_ms, error, check.measured_ms or 0.0, check.measured
            )
        )
        if check.start:
            about = "one process that starts anew"
            rows.append(
                Measurement(f"start on {check.device}", "not predicted", check.start, "", about)
            )
        if check.rival:
            rows.append(_rival_row(check.device, check.rival))
    expected = result.accuracy
    if result.evaluated is not None and expected is not None:
        rows.append(
            _accuracy_row(
                "accuracy in the supernet",
                expected,
                result.evaluated,
                0.0,
                True,
                "sliced, not fine-tuned",
            )
        )
    for fit in run.fits:
        if fit.best:
            rows.append(_fit_row(run, fit, fit.best))
    return tuple(rows)


def measured_point(run: RunReport) -> Point | None:
    """Return the found network at its measured values on the run's device, or None without any.

    A value that was not measured is the predicted one. An accuracy on other images than those of
    the prediction is left out.
    """
    check = run.breakdown
    ms = check.measured_ms if check and check.device == run.device else None
    expected = run.about.result.accuracy
    best = (
        next((fit.best for fit in run.fits if fit.best and _same_images(run, fit)), None)
        if expected
        else None
    )
    found = run.front.found[0]
    if ms is None and best is None:
        return None
    measured = replace(
        found,
        label="measured",
        # The error is the prediction's. A measured latency has none here.
        ms_error=None if ms is not None else found.ms_error,
        ms=ms or found.ms,
    )
    return (
        measured
        if best is None
        else replace(measured, accuracy=best.accuracy, error=best.standard_error)
    )


def _latency_row(
    device: str, predicted: float | None, error: float | None, measured: float, about: str
) -> Measurement:
    text = "not predicted" if predicted is None else with_error(predicted, error, "ms")
    apart = ""
    if predicted is not None:
        off = predicted - measured
        apart = f"{signed(off, 3)} ms ({signed(100 * off / measured, 1)} %){_in_errors(off, error)}"
    return Measurement(f"latency on {device}", text, f"{measured:.4g} ms", apart, about)


def _rival_row(device: str, rival: Rival) -> Measurement:
    """Return the row of the published member measured in alternation with the found network."""
    predicted = "not predicted" if rival.predicted_ms is None else f"{rival.predicted_ms:.4g} ms"
    apart = ""
    if rival.ratio is not None:
        ratio = rival.predicted_ratio
        predicted_ratio = "" if ratio is None else f" (predicted {ratio:.2f})"
        apart = f"found takes {rival.ratio:.2f} times as long{predicted_ratio}"
    about = "random weights, measured in alternation with the found network"
    return Measurement(
        f"{rival.name} on {device}", predicted, f"{rival.measured_ms:.4g} ms", apart, about
    )


def _fit_row(run: RunReport, fit: Fit, best: Accuracy) -> Measurement:
    about = f"{best.images} {best.part}; {fit.provenance}"
    expected = run.about.result.accuracy
    name = f"{best.metric}, {fit.name}"
    if expected is None:
        predicted = f"{below(run.about.result.cost)} the largest member"
        return Measurement(name, predicted, _percent(best), "only the drop was predicted", about)
    if not _same_images(run, fit):
        predicted = (
            f"{accuracy_text(expected)} on"
            f" {'ImageNet' if run.about.scores.kind == 'law' else 'other images'}"
        )
        return Measurement(name, predicted, _percent(best), "other images", about)
    return _accuracy_row(name, expected, best.accuracy, best.standard_error, False, about)


def _same_images(run: RunReport, fit: Fit) -> bool:
    """Return whether a fine-tuning used the images that the expected accuracy is for."""
    if run.about.scores.kind == "law":
        return fit.classes == IMAGENET_CLASSES
    return run.about.scores.data is not None and run.about.scores.data == fit.data


def _accuracy_row(
    what: str, expected: ExpectedAccuracy, measured: float, error: float, exact: bool, about: str
) -> Measurement:
    off = expected.value - measured
    shown = f"{measured:.2f} %" if exact else f"{measured:.2f} ± {error:.2f} %"
    apart = f"{signed(off)} points{_in_errors(off, hypot(expected.standard_error, error))}"
    return Measurement(what, accuracy_text(expected), shown, apart, about)


def _in_errors(off: float, error: float | None) -> str:
    """Return a prediction's error in standard errors as text, or "" where that is unknown."""
    return f", {abs(off) / error:.1f} standard errors" if error else ""


def _percent(best: Accuracy) -> str:
    return f"{best.accuracy:.2f} ± {best.standard_error:.2f} %"
