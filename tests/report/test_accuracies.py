"""Accuracies in a run's files, on its pictures and on its page, by every kind of scores."""

from __future__ import annotations

import csv
from dataclasses import replace
from math import hypot
from pathlib import Path

import pytest
import yaml

from nas.errors import InputError
from nas.latency import load_table
from nas.report.breakdown import table_rows
from nas.report.front import front_figure, fronts_figure
from nas.report.labels import label_places, view
from nas.report.members import measured_point, measurements, members, otherwise
from nas.report.page import render, write_comparison, write_pictures
from nas.report.points import Axis, Point
from nas.report.run import load_runs
from nas.report.summary import rests_on, tiles
from nas.report.trajectory import trajectory_figure
from nas.report.words import with_error
from nas.runs.schema import Difference, ExpectedAccuracy, read_about
from nas.search import pose
from nas.search.fastest import fastest
from nas.search.multi_device import search_several
from nas.search.record import write_several
from nas.space import load_space

KINDS = ("law", "recorded", "posterior", "costs")
"""Of scores: those that know a level, and recorded costs without one."""


def run_yaml(folder: Path) -> dict:
    return yaml.safe_load((folder / "run.yaml").read_text())


def rewrite(folder: Path, change) -> None:
    """Change what a run recorded."""
    data = run_yaml(folder)
    change(data)
    (folder / "run.yaml").write_text(yaml.safe_dump(data))


# What a run records


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_records_what_the_screen_says(make_run, scores_of, kind):
    folder = make_run(kind=kind, engine="exact")
    data = run_yaml(folder)
    space = load_space("small")
    table = load_table("toy")
    scores = scores_of(kind, space)
    assert data["scores"]["kind"] == ("recorded" if kind == "costs" else kind)
    assert ("evidence_share" in data["scores"]) == (kind == "posterior")
    result = data["result"]
    published = data["published"]
    assert result["latency_error"] is None and result["priced"] == 0
    assert published.keys() == space.published.keys()
    for name, member in published.items():
        arch = space.published[name]
        assert member["latency_ms"] == table.total_ms(arch)
        assert member["keeps_limits"] == (table.total_ms(arch) <= data["target"]["latency_ms"])
        assert member["difference"]["points"] == pytest.approx(member["cost"] - result["cost"])
    if kind == "costs":
        assert "accuracy" not in result and not any(
            "accuracy" in member for member in published.values()
        )
        return
    accuracy = result["accuracy"]
    assert accuracy.keys() >= {
        "top1",
        "standard_error",
        "metric",
        "source",
        "extrapolated",
        "reasons",
    }
    largest = scores.accuracy(space.largest()).value
    assert accuracy["top1"] == pytest.approx(largest - result["cost"]) and accuracy[
        "extrapolated"
    ] == bool(accuracy["reasons"])


def test_the_error_of_a_difference_contains_that_of_a_published_number():
    from nas.search import default_scores
    from nas.search.description import difference

    space = load_space("efficientformer")
    scores = default_scores(space)
    published = space.published["efficientformer_l1"]
    other = space.sample(seed=0)
    found = difference(scores, other, published)["difference"]
    number = scores.accuracy(published).standard_error
    assert found["standard_error"] == pytest.approx(
        hypot(scores.difference_error(other, published), number)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_front_has_accuracies_where_there_are_some(make_run, kind):
    rows = list(csv.DictReader((make_run(kind=kind) / "front.csv").open()))
    assert all(
        (row["accuracy"] == "") == (kind == "costs") == (row["standard_error"] == "")
        for row in rows
    )
    if kind != "costs":
        ends = {round(float(row["accuracy"]) + float(row["cost"]), 6) for row in rows}
        assert len(ends) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_finds_the_scores_of_a_run_again(make_run, kind):
    folder = make_run(kind=kind)
    (run,) = load_runs(folder)
    recorded = run.front
    (folder / "front.csv").unlink()
    (again,) = load_runs(folder)
    assert [p.cost for p in again.front.points] == pytest.approx(
        [p.cost for p in recorded.points], abs=1e-4
    )
    assert again.front.axis == recorded.axis


def test_a_changed_law_is_not_the_runs(make_run):
    folder = make_run(kind="law", with_front=False)
    rewrite(folder, lambda data: data["scores"].update(fingerprint="0"))
    (run,) = load_runs(folder)
    assert {gap.part: gap.reason for gap in run.left_out}[
        "Pareto front"
    ] == "the accuracy law has changed since the search"
    assert run.front.points == () and run.front.published


def test_an_older_run_is_still_reported(make_run):
    """It has costs only, its published members come from its sources, and what was evaluated is
    called accuracy."""
    folder = make_run()
    columns = ["ms", "cost", "macs", "params", "widths", "depths", "attention"]
    rows = list(csv.DictReader((folder / "front.csv").open()))
    lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]
    (folder / "front.csv").write_text("\n".join(lines) + "\n")

    def older(data):
        del data["published"], data["table"]["kind"]
        data["scores"] = {key: data["scores"][key] for key in ("provenance", "file", "sha256")}
        for key in ("latency_error", "priced"):
            del data["result"][key]
        data["result"] |= {"accuracy": 61.5, "drop": 1.0}

    rewrite(folder, older)
    (run,) = load_runs(folder)
    assert run.about.result.evaluated == 61.5 and run.about.result.accuracy is None
    assert (
        not run.front.axis.absolute and run.front.published and len(run.front.points) == len(rows)
    )
    assert "below" in tiles(run)[1].value and "small on toy" in render([run], "nas report")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data["result"]["accuracy"].pop("top1"), "result.accuracy: top1 is missing"),
        (
            lambda data: data["result"]["accuracy"].update(standard_error=-1),
            "result.accuracy.standard_error: ",
        ),
        (
            lambda data: data["published"]["small_s"].update(latency_ms="fast"),
            "published.small_s.latency_ms: ",
        ),
    ],
)
def test_damaged_accuracies_are_named(make_run, change, reason):
    folder = make_run()
    rewrite(folder, change)
    with pytest.raises(InputError) as refused:
        load_runs(folder)
    assert reason in str(refused.value) and len(str(refused.value).splitlines()) == 1


# Pictures


@pytest.mark.parametrize("kind", KINDS)
def test_better_is_upward(make_run, kind):
    (run,) = load_runs(make_run(kind=kind, engine="exact"))
    for figure in (
        front_figure(run.front),
        trajectory_figure(run.trajectory),
        fronts_figure({"a": run.front}),
    ):
        for axis in (
            each["encoding"]["y"]
            for each in figure.spec["layer"]
            if "field" in each["encoding"].get("y", {})
        ):
            assert axis["scale"]["reverse"] == (kind == "costs")
            assert axis["scale"]["domain"] == sorted(axis["scale"]["domain"])
            assert ("below the largest member" in axis["title"]) == (kind == "costs")
            assert ("ImageNet" in axis["title"]) == (kind == "law")


@pytest.mark.parametrize("kind", KINDS)
def test_bands_and_bars_are_one_standard_error(make_run, rows_of, kind):
    (run,) = load_runs(make_run(kind=kind, engine="exact"))
    figure = front_figure(run.front)
    band = rows_of(figure, "area")
    assert len(band) == (0 if kind == "costs" else len(run.front.points))
    (found,) = rows_of(figure, "point", "found")
    upward = [row for row in rows_of(figure, "rule") if "to" in row and row["x"] == found["x"]]
    assert bool(upward) == (kind in ("law", "posterior"))  # the made-up costs have no errors
    if band:
        errors = [p.error for p in run.front.points]
        assert [(row["high"] - row["y"]) / 2 for row in band] == pytest.approx(errors)
        text = f"found {run.about.result.accuracy.value:.1f}"
        assert text in [row["text"] for row in rows_of(figure, "text")]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_drawn_by_every_kind_of_scores(make_run, kind):
    (run,) = load_runs(make_run(kind=kind))
    (other,) = load_runs(make_run("two", kind="recorded"))
    pictures = [*write_pictures(run), *write_comparison([run, other], Path("compared"))]
    assert {"front", "trajectory", "network", "fronts"} <= {path.stem for path in pictures}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_labels_cover_neither_one_another_nor_a_marker():
    axis = Axis("%", absolute=True)
    points = [
        Point("a", 1.0, 0.0, accuracy=80.0),
        Point("b", 1.01, 0.0, accuracy=79.9),
        Point("c", 3.0, 0.0, accuracy=82.0),
    ]
    frame = view(axis, points, points, 1.0)
    assert frame.left < 1.0 and frame.right > 3.0 and frame.bottom < 79.9 and frame.top > 82.0
    options = ("bottom right", "top left", "bottom left", "top right")
    places = label_places(axis, [(p, "net 80", options) for p in points], frame, (100.0, 25.0))
    assert places[0] != places[1] and places[2].endswith("left")  # on its right the picture ends


def test_a_view_leaves_out_what_nobody_ships():
    axis = Axis("%", absolute=True)
    curve = [
        Point("", float(ms), 0.0, accuracy=accuracy)
        for ms, accuracy in ((1, 20.0), (2, 70.0), (3, 79.0), (4, 80.0))
    ]
    frame = view(axis, curve, curve[2:], 3.0)
    assert 70.0 < frame.bottom < 79.0 and frame.left > 1.0
    costs = Axis("points", absolute=False)
    upside_down = view(
        costs, [Point("", 1.0, 5.0), Point("", 2.0, 1.0)], [Point("", 1.5, 2.0)], 3.0
    )
    assert upside_down.bottom > upside_down.top and upside_down.top < 1.0
    assert view(axis, [], [], 1.0) is None


# Cards and tables


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_by_every_kind_of_scores_does_not_contradict_itself(make_run, kind):
    (run,) = load_runs(make_run(kind=kind, engine="exact"))
    assert measured_point(run) is None
    html = render([run], "nas report")
    for text in ("not to trust", "cannot be trusted", "not a gain to expect", "Why to believe"):
        assert text not in html
    assert ("these scores have no absolute accuracy" in html) == (kind == "costs")
    assert ("ImageNet top-1" in html) == (kind == "law")
    assert "Best published alternative" in html and "Sources of the figures" in html
    assert all(text.count(".") <= 12 and "\n" not in text for _, text in rests_on(run))


@pytest.mark.parametrize(
    ("points", "verdict"),
    [
        (0.4, "ties with this member (+0.40 ± 0.50 points)"),
        (0.6, "more accurate (+0.60 ± 0.50 points)"),
        (-0.6, "less accurate (\N{MINUS SIGN}0.60 ± 0.50 points)"),
        (-0.4, "ties with this member"),
    ],
)
def test_ties_are_called_ties(make_run, points, verdict):
    folder = make_run(kind="law", engine="exact")

    def change(data):
        for member in data["published"].values():
            member |= {
                "keeps_limits": True,
                "difference": {"points": points, "standard_error": 0.5},
            }

    rewrite(folder, change)
    (run,) = load_runs(folder)
    assert verdict in otherwise([run]).verdict
    assert ("(tie)" in members([run])[1].difference) == (abs(points) <= 0.5)
    assert Difference(points=points, standard_error=0.5).tied == (abs(points) <= 0.5)


def test_without_a_published_member_within_the_target_the_nearest_is_named(make_run):
    folder = make_run(engine="exact")
    rewrite(folder, lambda data: [m.update(keeps_limits=False) for m in data["published"].values()])
    (run,) = load_runs(folder)
    assert (
        otherwise([run]).name == ""
        and "The nearest in latency, small_" in otherwise([run]).figures[0]
    )


def test_published_numbers_stand_beside_their_prediction(make_run):
    folder = make_run(kind="law", engine="exact")

    def publish(data):
        data["published"]["small_s"]["accuracy"] |= {
            "top1": 71.25,
            "predicted": 70.5,
            "predicted_error": 0.75,
        }

    rewrite(folder, publish)
    (run,) = load_runs(folder)
    row = next(row for row in members([run]) if row.name == "s")
    assert row.accuracy.startswith("71.2") and row.predicted == "published; predicted 70.5 ± 0.8 %"
    point = next(p for p in run.front.published if p.label == "s")
    assert (
        point.accuracy == 71.25 and "predicted without this result: 70.5 ± 0.8 %" in point.about[0]
    )


@pytest.mark.parametrize(("option", "value"), [("max_drop", 3.0), ("min_accuracy", 85.0)])
def test_a_search_for_the_fastest_says_what_it_kept(make_run, option, value):
    folder = make_run(engine="exact", **{option: value})
    (run,) = load_runs(folder)
    assert run_yaml(folder)["target"][option] == value
    assert f"at {'most' if option == 'max_drop' else 'least'} {value:g}" in tiles(run)[0].about
    card = otherwise([run])
    assert card.name == "" or run.about.published[card.name].cost <= 5.0 + 1e-9


def test_a_prediction_stands_beside_what_was_measured(make_run, add_everything):
    folder = make_run(kind="law")
    add_everything(folder, load_runs(folder)[0].architecture)
    rewrite(
        folder,
        lambda data: data["result"].update(
            latency_ms=data["result"]["latency_ms"], latency_error=0.04
        ),
    )
    (run,) = load_runs(folder)
    latency, accuracy = measurements(run)
    assert latency.measured == "0.5 ms" and latency.predicted == "0.480 ± 0.040 ms"
    assert latency.difference == "\N{MINUS SIGN}0.020 ms (\N{MINUS SIGN}4.0 %), 0.5 standard errors"
    # Fine-tuned on digits, predicted for ImageNet: no difference of the two means anything.
    assert accuracy.predicted.endswith("on ImageNet") and accuracy.difference == "other images"
    assert accuracy.measured == "72.25 ± 1.00 %"
    assert (
        measured_point(run).accuracy == run.about.result.accuracy.value
        and measured_point(run).ms == 0.5
    )


def test_accuracies_on_the_same_images_are_compared(make_run, add_everything, rows_of):
    folder = make_run(kind="law")

    def publish(data):
        for member in data["published"].values():
            member["keeps_limits"] = True
            member["accuracy"] |= {
                "top1": 75.0,
                "standard_error": 0.2,
                "predicted": 74.0,
                "predicted_error": 0.5,
            }

    rewrite(folder, publish)
    add_everything(folder, load_runs(folder)[0].architecture)
    path = folder / "finetune" / "finetune.yaml"
    data = yaml.safe_load(path.read_text()) | {
        "data": {"fingerprint": "f", "classes": list(range(1000))}
    }
    path.write_text(yaml.safe_dump(data))
    (run,) = load_runs(folder)
    expected = run.about.result.accuracy
    off = expected.value - 72.25
    error = hypot(expected.standard_error, 1.0)
    assert f"{abs(off) / error:.1f} standard errors" in measurements(run)[1].difference
    verdict = f"After fine-tuning, it is less accurate (\N{MINUS SIGN}2.75 ± {hypot(1.0, 0.2):.2f} points)"
    assert verdict in otherwise([run]).verdict
    point = measured_point(run)
    assert (point.ms, point.accuracy, point.error) == (0.5, 72.25, 1.0) and point.ms_error is None
    (drawn,) = rows_of(front_figure(run.front, point), "point", "found, measured")
    assert (drawn["x"], drawn["y"]) == (0.5, 72.25)
    assert rows_of(front_figure(run.front), "point", "found, measured") == []


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ((1.335092, 0.0878, "ms"), "1.335 ± 0.088 ms"),
        ((12.3456, 1.234, "ms"), "12.3 ± 1.2 ms"),
        ((79.544, 0.408, "%", 1), "79.5 ± 0.4 %"),
        ((79.544, 0.024, "%", 1), "79.544 ± 0.024 %"),
        ((1.335092, None, "ms"), "1.335 ms"),
        ((79.544, None, "%", 1), "79.5 %"),
        ((150.0, 20.0, "ms"), "150 ± 20 ms"),
    ],
)
def test_figures_have_as_many_digits_as_their_error(figure, text):
    assert with_error(*figure) == text


def test_expected_accuracies_of_other_metrics():
    known = ExpectedAccuracy(metric="miou", miou=40.5, standard_error=0.5)
    assert known.value == 40.5


# The table


def test_priced_operations_are_counted(make_run):
    (run,) = load_runs(make_run())
    table = load_table("toy")
    missing = run.architecture.operations()[0].key
    rows = table_rows(
        replace(table, rows={key: row for key, row in table.rows.items() if key != missing}),
        run.architecture,
    )
    assert (
        rows.used["priced"] == 1
        and rows.provenances == ("estimated", "priced")
        and "priced" not in rows.all
    )


# What to do next


@pytest.mark.parametrize(
    ("kind", "target"), [("coreml", "coreml"), ("litert-android", "litert"), ("toy", "litert")]
)
def test_what_is_proposed_fits_the_device(make_run, kind, target):
    folder = make_run(kind="law")
    rewrite(folder, lambda data: data["table"].update(kind=kind))
    commands = {gap.part: gap.command for gap in load_runs(folder)[0].left_out}
    assert commands["exports"] == f"nas export {folder} --to {target}"
    assert commands["measured latency"] == f"nas check {folder} --device toy"
    assert commands["fine-tuning"] == "" and "alpha" not in commands


def test_fine_tuning_is_proposed_on_the_data_of_the_supernet(make_run):
    folder = make_run()
    Path("runs/super net").mkdir()
    Path("runs/super net/supernet.yaml").write_text(
        "data: {name: my digits}\ncommand: nas train --space small\n"
    )
    rewrite(folder, lambda data: data.update(supernet="runs/super net"))
    commands = {gap.part: gap.command for gap in load_runs(folder)[0].left_out}
    assert commands["fine-tuning"] == f"nas finetune {folder} --data 'my digits' --from-scratch"
    assert commands["alpha"] == "nas train --space small"


# Several devices


@pytest.fixture
def make_several(workplace, made_up_table, scores_of):
    """A function that searches the workplace's space on two devices, by scores of a kind and two
    targets as shares."""
    made_up_table(workplace.space, seed=3, name="slow").save("latency_tables/slow")

    def make(kind: str = "law", shares: tuple[float, float] = (1.5, 1.5)) -> Path:
        space = load_space("small")
        problems = []
        for device, share in zip(("toy", "slow"), shares, strict=True):
            table = load_table(device)
            problems.append(
                pose(space, table, scores_of(kind, space), fastest(space, table)[0] * share)
            )
        folder = Path("runs/both")
        folder.mkdir(parents=True)
        write_several(folder, search_several(problems), ["nas", "search", "--space", "small"])
        return folder

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_one_search_on_two_devices_is_one_run(make_several, kind):
    folder = make_several(kind)
    runs = load_runs(folder)
    assert [run.device for run in runs] == ["toy", "slow"] and write_comparison(runs, folder) == []
    html = render(runs, "nas report")
    assert (
        "small on toy and slow" in html and "runs compared" not in html and 'id="run-2"' not in html
    )
    assert html.count("Commands to reproduce") == 1 and html.count("<h3>The network</h3>") == 1
    for run in runs:
        assert f"The front on {run.device}" in html and f"Latency on {run.device}" in html
        assert (
            run.about.common and run.front.points and run.front.axis.absolute == (kind != "costs")
        )
    names = [row.name for row in members(runs)]
    assert names[:3] == ["best on all", "best on toy", "best on slow"] and len(names) == 3 + len(
        runs[0].about.published
    )
    assert all(len(row.latency) == 2 for row in members(runs))
    if kind != "costs":
        assert run_yaml(folder)["result"]["best on all"]["accuracy"]["metric"] == "top1"
        rows = list(csv.DictReader((folder / "members.csv").open()))
        assert all(row["accuracy"] and row["standard_error"] for row in rows)


def test_without_a_common_member_each_device_has_its_own_network(make_several):
    folder = make_several(shares=(1.0, 1.0))
    about = read_about(folder)
    assert not about["toy"].common, "the fastest member of one device is not that of the other"
    runs = load_runs(folder)
    html = render(runs, "nas report")
    assert "No member meets all of it" in html and "Best on toy" in html
    assert (
        "The network on toy" in html
        and "The network on slow" in html
        and "Best published alternative" not in html
    )


def test_a_run_on_two_devices_beside_another_run(make_several, make_run):
    runs = [*load_runs(make_run(kind="law")), *load_runs(make_several())]
    html = render(runs, "nas report")
    assert "2 runs compared" in html and 'id="run-2"' in html and 'id="run-3"' not in html
    assert "both on slow" in html and "compare latencies on one device only" in html


def test_the_measured_rival_stands_beside_the_found_network(make_run, check_file):
    folder = make_run(kind="law")
    arch = load_runs(folder)[0].architecture
    rival = {
        "name": "small_s",
        "reason": "within the target",
        "predicted_ms": 0.49,
        "measured_ms": 1.25,
    }
    check = check_file(arch) | {"rival": rival, "ratio": 0.4, "predicted_ratio": 0.98}
    (folder / "check-toy.yaml").write_text(yaml.safe_dump(check))
    own, other = measurements(load_runs(folder)[0])
    assert own.measured == "0.5 ms"
    assert (other.what, other.measured) == ("small_s on toy", "1.25 ms")
    assert other.difference == "found takes 0.40 times as long (predicted 0.98)"
    check["rival"]["measured_ms"] = None
    (folder / "check-toy.yaml").write_text(yaml.safe_dump(check | {"ratio": None}))
    assert len(measurements(load_runs(folder)[0])) == 1


def test_the_start_of_the_found_network_stands_beside_its_latency(make_run, check_file):
    folder = make_run(kind="law")
    arch = load_runs(folder)[0].architecture
    start = {"load_ms": 12.0, "first_ms": 3.25, "memory_mb": None}
    check = check_file(arch) | {"start": start}
    (folder / "check-toy.yaml").write_text(yaml.safe_dump(check))
    _, row = measurements(load_runs(folder)[0])
    assert (row.what, row.predicted) == ("start on toy", "not predicted")
    assert row.measured == "loads in 12 ms, first run 3.25 ms"
    start["memory_mb"] = 41.04
    (folder / "check-toy.yaml").write_text(yaml.safe_dump(check))
    assert measurements(load_runs(folder)[0])[1].measured.endswith(", 41.0 MB")
