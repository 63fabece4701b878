"""What a run found and what that rests on, in words: the cards and tables that a report begins
with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, hypot, isfinite, log10

from nas.report.breakdown import Rival
from nas.report.figure import METRICS, Point
from nas.report.run import RunReport
from nas.report.training import Accuracy, Fit
from nas.runs.schema import About, Difference, ExpectedAccuracy, Member
from nas.search.limits import MACS, PARAMS

SAME = 0.005
"""Points of accuracy that are shown as equal."""
IMAGENET_CLASSES = 1000
"""Of the data set whose top-1 the accuracy law tells."""
LIMITS: Mapping[str, Callable[[float], str]] = {
    "macs": MACS.text,
    "params": PARAMS.text,
    "memory_mb": lambda most: f"{most:.4g} MB peak memory",
}
"""How much of something, for limits beside latency."""


@dataclass(frozen=True)
class Tile:
    """One figure that a reader should see first."""

    label: str
    value: str
    about: str


@dataclass(frozen=True)
class Otherwise:
    """What one would ship without the search: the best published member that keeps the limits.

    Attributes:
        name: empty where no published member keeps them.
        figures: its latency, accuracy and size, in words.
        verdict: how the found network compares.
    """

    name: str
    figures: tuple[str, ...]
    verdict: str


@dataclass(frozen=True)
class Row:
    """A line of the table of members: each in words; `found` for what the search found.

    `latency` has for each device the time and whether it keeps what was asked for there.
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
    """A prediction beside what was measured, in words."""

    what: str
    predicted: str
    measured: str
    difference: str
    about: str


def tiles(run: RunReport) -> tuple[Tile, ...]:
    """Return the figures of a run: latency, accuracy, size, and what was measured since."""
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
    """Return the figures of a search on several devices: of the common member, or of the best on
    each."""
    common = bool(runs[0].about.common)
    found = []
    for run in runs:
        result = run.about.result
        label = f"Latency on {run.device}" if common else f"Best on {run.device}"
        worth = "" if common else f"; {accuracy_tile(run).value}"
        found.append(Tile(label, ms_text(result), f"predicted; {_asked(run)}{worth}"))
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
    """Return the expected accuracy, or how far below the largest member where only that is known."""
    result = run.about.result
    if result.accuracy is None:
        return Tile(
            "Expected accuracy",
            below(result.cost),
            "the space's largest member; these scores know no level",
        )
    law = run.about.scores.kind == "law"
    outside = (
        f"; outside of the data: {', '.join(result.accuracy.reasons)}"
        if result.accuracy.reasons
        else ""
    )
    name = METRICS[result.accuracy.metric]
    of = f"ImageNet {name}" if law else f"{name} on the supernet's images"
    return Tile(
        "Expected accuracy", accuracy_text(result.accuracy), f"{of} ± one standard error{outside}"
    )


def _measured_tiles(run: RunReport) -> Iterator[Tile]:
    result = run.about.result
    if result.evaluated is not None and result.drop is not None:
        about = f"top-1 of its slice; {below(result.drop)} the largest member"
        yield Tile("Accuracy in the supernet", f"{result.evaluated:.2f} %", about)
    for fit in run.fits:
        if fit.best:
            about = f"top-1 on {fit.best.images} {fit.best.part}"
            yield Tile(
                f"Accuracy, {fit.name}",
                f"{fit.best.accuracy:.2f} ± {fit.best.standard_error:.2f} %",
                about,
            )


def _asked(run: RunReport) -> str:
    """Return what was asked for, in words."""
    target = run.about.target
    asked = [] if target.latency_ms is None else [f"target {target.latency_ms:.4g} ms"]
    if target.min_accuracy is not None:
        asked.append(f"at least {target.min_accuracy:g} %")
    if target.max_drop is not None:
        asked.append(f"at most {target.max_drop:g} points below the largest member")
    asked += [f"at most {LIMITS[name](most)}" for name, most in target.limits.items()]
    return ", ".join(asked) or "no target"


def meaning(runs: Sequence[RunReport]) -> tuple[str, ...]:
    """Return what was asked for and found, and where the proven optimum is.

    The runs are those of one folder: one, or one a device.
    """
    about = runs[0].about
    asked = " and ".join(f"{_limits(run)} on {run.device}" for run in runs)
    if about.common is False:
        found = [
            f"{_shape(run.about.result)} is the most accurate member on {run.device}"
            for run in runs
        ]
        return (
            f"Asked for {asked}: {'; '.join(found)}. No member keeps all of it: {about.reason}.",
        )
    sentence = (
        f"Asked for {asked}, the engine '{about.engine.name}' found a member of space"
        f" '{about.space.name}': {_shape(about.result)}."
    )
    optimum = _optimum(runs[0])
    return (sentence, *([optimum] if optimum else []))


def _limits(run: RunReport) -> str:
    """Return the limits of a search, in words."""
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
        f"widths {_dashed(member.widths)}, depths {_dashed(member.depths)}, attention blocks "
        f"{_dashed(member.attention)} in its {len(member.widths)} stages"
    )


def _optimum(run: RunReport) -> str:
    target = run.about.target
    result = run.about.result
    within = [point for point in run.front.points if point.ms <= run.front.target_ms * (1 + 1e-9)]
    fastest_asked = target.min_accuracy is not None or target.max_drop is not None
    if (
        not isfinite(run.front.target_ms)
        or not within
        or fastest_asked
        or run.about.common is not None
    ):
        return ""
    limits = "limits" if target.limits else "target"
    # A front is ordered by what the search minimises: its slowest member within the target is the
    # best one.
    best = within[-1]
    missed = result.cost - best.cost
    if result.evaluated is not None:
        if missed < SAME:
            return f"By the scores no member within the {limits} is more accurate."
        return (
            f"By the scores the best member within the {limits} lies {best.cost:.2f} points below"
            f" the largest one at {best.ms:.4g} ms, {missed:.2f} points above this network, which"
            " its accuracy in the supernet chose."
        )
    if run.about.engine.name == "exact":
        cautious = (
            ""
            if run.about.scores.kind == "recorded"
            else ", less what may be lost outside of the data"
        )
        return (
            f"It is the proven optimum within the {limits}, but for ties: by expected"
            f" accuracy{cautious}."
        )
    if missed < SAME:
        return (
            f"It is the proven optimum: no member within the {limits} is more accurate by these"
            " scores."
        )
    return (
        f"The proven optimum within the {limits} is {missed:.2f} points more accurate and takes"
        f" {best.ms:.4g} ms (nas search --engine exact finds it)."
    )


def otherwise(runs: Sequence[RunReport]) -> Otherwise | None:
    """Return what one would ship without the search; None where no published member is known.

    The runs are those of one folder: one, or one a device. A member is to keep what was asked for
    on each device.
    """
    about = runs[0].about
    if not about.published or about.common is False:
        return None
    everywhere = [
        name for name in about.published if all(name in run.about.published for run in runs)
    ]
    kept = [
        name for name in everywhere if all(run.about.published[name].keeps_limits for run in runs)
    ]
    if not kept:
        return _nearest(about)
    fastest = about.target.min_accuracy is not None or about.target.max_drop is not None
    best = min(kept, key=lambda name: _rank(about.published[name], fastest))
    verdict = _verdict(about.result, about.published[best], len(runs) == 1)
    since = _measured_verdict(runs[0], about.published[best])
    return Otherwise(best, _figures(best, runs), f"{verdict} {since}" if since else verdict)


def _measured_verdict(run: RunReport, other: Member) -> str:
    """Return how the fine-tuned network compares with a published number, where both are of the
    same images."""
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
        return f"Fine-tuned, it ties with it ({difference_text(apart)})."
    return (
        f"Fine-tuned, it is {'more' if points > 0 else 'less'} accurate ({difference_text(apart)})."
    )


def _rank(member: Member, fastest: bool) -> tuple[float, float]:
    return (member.latency_ms, member.cost) if fastest else (member.cost, member.latency_ms)


def _nearest(about: About) -> Otherwise:
    """Return what stands in for a published member where none keeps what was asked for."""
    ms = about.result.latency_ms
    name, member = min(about.published.items(), key=lambda each: abs(each[1].latency_ms - ms))
    nearest = f"The nearest, {name}, takes {ms_text(member)} on {about.table.device}."
    return Otherwise("", (nearest,), "No published member keeps what was asked for.")


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
        accuracy = f"{accuracy_text(member.accuracy)} {METRICS[member.accuracy.metric]}"
        accuracy += " (published)" if member.accuracy.predicted is not None else " (expected)"
    return (*times, accuracy, f"{member.params / 1e6:.2f} M parameters")


def _verdict(found: Member, other: Member, paced: bool) -> str:
    """Return how the found network compares, a tie called a tie; with its speed where `paced`."""
    pace = found.latency_ms / other.latency_ms - 1
    speed = f"{100 * abs(pace):.1f} % {'slower' if pace > 0 else 'faster'}"
    speed = "as fast" if abs(pace) < 0.0005 else speed
    ending = f" and is {speed}." if paced else "."
    apart = other.difference or Difference(points=other.cost - found.cost, standard_error=0.0)
    if (found.widths, found.depths, found.params) == (other.widths, other.depths, other.params):
        return "It is the network that was found."
    if apart.tied:
        return f"The found network ties with it ({difference_text(apart)}){ending}"
    better = "more" if apart.points > 0 else "less"
    return (
        f"The found network is expected to be {better} accurate ({difference_text(apart)}){ending}"
    )


def members(runs: Sequence[RunReport]) -> tuple[Row, ...]:
    """Return the table of what was found and the published members, with the latency on each run's
    device.

    The runs are those of one folder: one, or one a device.
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
    known = sorted(published.items(), key=lambda each: min(m.latency_ms for m in each[1] if m))
    return (*rows, *(_row(name.removeprefix(f"{first.space.name}_"), each) for name, each in known))


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
        apart = (
            f"{difference_text(member.difference)}{' (a tie)' if member.difference.tied else ''}"
        )
    shape = "; ".join(
        _dashed(values) for values in (member.widths, member.depths, member.attention)
    )
    latency = tuple(
        ("not run", True) if each is None else (ms_text(each), each.keeps_limits is not False)
        for each in on_devices
    )
    params = f"{member.params / 1e6:.2f} M"
    macs = f"{member.macs / 1e9:.3f} G"
    return Row(name, latency, accuracy, predicted, apart, params, macs, shape, found)


def measurements(run: RunReport) -> tuple[Measurement, ...]:
    """Return predictions beside what was measured since: latencies, and the accuracy after each
    fine-tuning."""
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
        if check.rival:
            rows.append(_rival_row(check.device, check.rival))
    expected = result.accuracy
    if result.evaluated is not None and expected is not None:
        rows.append(
            _accuracy_row(
                "accuracy in the supernet", expected, result.evaluated, 0.0, True, "its slice"
            )
        )
    for fit in run.fits:
        if fit.best:
            rows.append(_fit_row(run, fit, fit.best))
    return tuple(rows)


def measured_point(run: RunReport) -> Point | None:
    """Return the found network with what was measured of it on the run's device, what was not as
    predicted.

    None where nothing was measured. An accuracy on other images than those of the prediction is
    left out.
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
    """Return the published member that was measured by turns with the found network."""
    predicted = "not predicted" if rival.predicted_ms is None else f"{rival.predicted_ms:.4g} ms"
    apart = ""
    if rival.ratio is not None:
        known = "" if rival.predicted_ratio is None else f", predicted {rival.predicted_ratio:.2f}"
        apart = f"found takes {rival.ratio:.2f} of it{known}"
    about = "random weights, measured by turns with the found network"
    return Measurement(
        f"{rival.name} on {device}", predicted, f"{rival.measured_ms:.4g} ms", apart, about
    )


def _fit_row(run: RunReport, fit: Fit, best: Accuracy) -> Measurement:
    about = f"{best.images} {best.part}; {fit.provenance}"
    expected = run.about.result.accuracy
    if expected is None:
        predicted = f"{below(run.about.result.cost)} the largest member"
        return Measurement(
            f"top-1, {fit.name}", predicted, _percent(best), "only costs were predicted", about
        )
    if not _same_images(run, fit):
        predicted = (
            f"{accuracy_text(expected)} on"
            f" {'ImageNet' if run.about.scores.kind == 'law' else 'other images'}"
        )
        return Measurement(f"top-1, {fit.name}", predicted, _percent(best), "other images", about)
    return _accuracy_row(
        f"top-1, {fit.name}", expected, best.accuracy, best.standard_error, False, about
    )


def _same_images(run: RunReport, fit: Fit) -> bool:
    """Return whether what was fine-tuned on is what the expected accuracy is of."""
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
    """Return how many standard errors a prediction is off."""
    return f", {abs(off) / error:.1f} standard errors" if error else ""


def _percent(best: Accuracy) -> str:
    return f"{best.accuracy:.2f} ± {best.standard_error:.2f} %"


def rests_on(run: RunReport) -> tuple[tuple[str, str], ...]:
    """Return what the figures rest on: a heading and one line each."""
    return (("Accuracy", _accuracy_line(run)), ("Latency", _latency_line(run)))


def _accuracy_line(run: RunReport) -> str:
    scores = run.about.scores
    text = scores.provenance
    recorded = run.recorded
    if recorded is not None and recorded.baseline_accuracy is not None and recorded.images:
        text += (
            f"; the largest member has {recorded.baseline_accuracy:.1f} % there, over"
            f" {recorded.images} images"
        )
    if recorded is not None and recorded.scored.resolution != run.architecture.resolution:
        text += (
            f"; measured at {_size(recorded.scored.resolution)} with {recorded.scored.classes}"
            f" classes, this network is for {_size(run.architecture.resolution)} with"
            f" {run.architecture.classes}"
        )
    if run.about.score_by.judge:
        text += f"; members were evaluated by {run.about.score_by.judge}"
    return f"{text}."


def _latency_line(run: RunReport) -> str:
    table = run.about.table
    result = run.about.result
    error = (
        "nobody checked it on whole networks"
        if table.expected_error is None
        else f"expected error {table.expected_error:.1f} % ({table.expected_error_source})"
    )
    priced = (
        f"; {100 * result.priced:.0f} % of it has no row and is priced by the cost model"
        if result.priced
        else ""
    )
    return (
        f"{table.provenance} table of {table.device}, {table.soc}, {table.runtime};"
        f" {error}{priced}."
    )


def comparing(runs: Sequence[RunReport]) -> tuple[str, ...]:
    """Return what to mind when several runs stand side by side."""
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


def ms_text(member: Member) -> str:
    """Return a predicted latency with its standard error."""
    return with_error(member.latency_ms, member.latency_error, "ms")


def accuracy_text(accuracy: ExpectedAccuracy) -> str:
    """Return an expected accuracy with its standard error."""
    return with_error(accuracy.value, accuracy.standard_error, "%", decimals=1)


def difference_text(apart: Difference) -> str:
    """Return by how many points the found network is expected to be more accurate, with the
    standard error."""
    if apart.points and not apart.standard_error:
        return f"{signed(apart.points)} points, error unknown"
    return f"{signed(apart.points)} ± {apart.standard_error:.2f} points"


def with_error(value: float, error: float | None, unit: str, decimals: int | None = None) -> str:
    """Return a figure with its standard error, to two digits of that or to so many decimals."""
    if not error:
        return f"{value:.4g} {unit}" if decimals is None else f"{value:.{decimals}f} {unit}"
    digits = max(0, 1 - floor(log10(error))) if decimals is None else decimals
    if decimals is not None and error < 0.5 * 10**-decimals:
        digits = max(digits, 1 - floor(log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f} {unit}"


def below(drop: float) -> str:
    """Return points below something, or above it where they are negative."""
    return f"{abs(drop):.2f} points {'above' if drop < 0 else 'below'}"


def signed(points: float, decimals: int = 2) -> str:
    """Return a figure with its sign, by a real minus."""
    return f"{points:+.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _dashed(values: Sequence[int]) -> str:
    return "-".join(map(str, values))


def _size(resolution: Sequence[int]) -> str:
    return "x".join(map(str, resolution))
