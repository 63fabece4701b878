"""A report reads what a run's folder holds, draws nothing from other figures, and says what is not
there."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nas.errors import InputError
from nas.figures import Figure
from nas.files import YamlFile, write_text, write_yaml
from nas.latency import load_table
from nas.report.front import front_figure, fronts_figure
from nas.report.members import otherwise
from nas.report.page import render, write_pictures
from nas.report.run import load_runs, without
from nas.report.summary import meaning, rests_on, tiles
from nas.search import load_scores
from nas.space import load_architecture, load_space


def test_a_run_with_everything_leaves_nothing_out(make_run, add_everything):
    folder = make_run()
    arch = load_architecture(folder / "architecture.yaml")
    add_everything(folder, arch)
    (run,) = load_runs(folder)
    assert run.left_out == () and run.name == "one"
    assert run.architecture == arch and run.about.result.params == arch.params
    assert run.breakdown.measured_ms == 0.5 and run.breakdown.bars[0].measured_ms == 0.12
    assert [bar.name for bar in run.breakdown.bars[1:]] == [op.name for op in arch.operations()]
    assert (
        run.breakdown.bars[3].measured_ms == pytest.approx(0.033)
        and run.breakdown.bars[3].provenance == "estimated"
    )
    assert run.fits[0].best.accuracy == 72.25 and run.fits[0].best.part == "test images"
    assert [result.network for result in run.fits[0].results] == ["trained", "moving average"] * 2
    assert run.exports.files[0].facts[1] == "accuracy 72.00 % (network: 72.25 %) on 300 images"
    assert run.rows.all == {"estimated": len(load_table("toy").rows)}
    pictures = write_pictures(run)
    names = {"front", "trajectory", "network", "breakdown", "alpha", "alpha-attention", "finetune"}
    assert {path.stem for path in pictures} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_iou_of_each_class_is_shown(make_run, add_everything):
    folder = make_run()
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    path = folder / "finetune" / "finetune.yaml"
    data = YamlFile(path).data
    accuracy = data["accuracy"]
    accuracy["metric"] = "miou"
    accuracy["test"][accuracy["weights"]]["by_class"] = {"road": 91.25, "bicycle": None}
    write_yaml(path, data)
    (run,) = load_runs(folder)
    assert run.fits[0].best.by_class == {"road": 91.25, "bicycle": None}
    page = render([run], "nas report one")
    assert '<th class="n">mIoU' in page and '<th class="n">road' in page
    assert '<td class="n">91.2<td class="n">-' in page


def test_the_front_is_the_files_or_the_same_computed_anew(make_run):
    folder = make_run()
    (run,) = load_runs(folder)
    rows = list(csv.DictReader((folder / "front.csv").open()))
    assert [(p.ms, p.cost) for p in run.front.points] == [
        (float(row["ms"]), float(row["cost"])) for row in rows
    ]
    (folder / "front.csv").unlink()
    (again,) = load_runs(folder)
    assert again.front == run.front
    space = load_space("small")
    table = load_table("toy")
    scores = load_scores("small")
    assert [(p.label, p.ms, p.cost, p.accuracy) for p in run.front.published] == [
        (
            name.removeprefix("small_"),
            table.total_ms(arch),
            scores.cost(arch),
            scores.accuracy(arch).value,
        )
        for name, arch in space.published.items()
    ]


def test_the_trajectory_begins_with_the_largest_member_and_ends_with_the_found_one(make_run):
    (run,) = load_runs(make_run())
    start = run.trajectory.points[0]
    end = run.trajectory.points[-1]
    space = load_space("small")
    assert (
        start.ms == pytest.approx(load_table("toy").total_ms(space.largest()))
        and abs(start.cost) < 1e-9
    )
    assert (end.ms, end.cost) == pytest.approx((run.about.result.latency_ms, run.about.result.cost))
    assert "step 1: " in run.trajectory.points[1].about[0]


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (
            "latency_tables/toy/table.csv",
            "the latency table latency_tables/toy/table.csv has changed since the search",
        ),
        (
            "experiments/small-toy/scores.csv",
            "the scores experiments/small-toy/scores.csv has changed since the search",
        ),
    ],
)
def test_nothing_is_drawn_from_inputs_that_changed_since(make_run, workplace, file, reason):
    folder = make_run(with_front=False)
    Path(file).write_text(Path(file).read_text() + "\n" * 2)
    (run,) = load_runs(folder)
    gaps = {gap.part: gap for gap in run.left_out}
    assert reason in gaps["Pareto front"].reason.replace(str(workplace.folder) + "/", "")
    assert gaps["Pareto front"].command == "nas search --space small --note 'a b' --front"
    # What the run recorded of the published members stays its own.
    assert run.front.points == () and run.front.published


def test_a_table_with_another_calibration_is_not_the_runs(make_run, workplace):
    folder = make_run()
    table = load_table("toy")
    replace(table, device=replace(table.device, intercept_ms=0.2)).save("latency_tables/toy")
    (run,) = load_runs(folder)
    reason = {gap.part: gap.reason for gap in run.left_out}["breakdown"]
    assert "the calibration of the latency table" in reason and "has changed" in reason
    assert run.breakdown is None and run.operations and run.trajectory


def test_inputs_are_found_from_another_working_directory(
    make_run, workplace, tmp_path, monkeypatch
):
    folder = make_run(with_front=False).resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (run,) = load_runs(folder)
    assert run.front.points and run.front.published


def test_a_check_on_another_device_is_shown_beside(make_run, check_file):
    folder = make_run()
    arch = load_architecture(folder / "architecture.yaml")
    (folder / "check-other.yaml").write_text(yaml.safe_dump(check_file(arch, "other")))
    (run,) = load_runs(folder)
    assert [each.device for each in run.others] == ["other"] and run.breakdown.measured_ms is None
    assert "measured latency" in {gap.part for gap in run.left_out}


def test_a_fine_tuning_under_way_is_no_result(make_run, add_everything):
    folder = make_run()
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    (folder / "finetune" / "weights.safetensors").unlink()
    (run,) = load_runs(folder)
    assert run.fits[0].epochs == (0.5, 1.0) and run.fits[0].best is None
    assert {gap.part: gap.reason for gap in run.left_out} == {"fine-tuning": "not finished"}
    assert not any("fine" in tile.label for tile in tiles(run))


def test_a_fine_tuning_that_skipped_steps_or_filled_the_disk_is_shown(make_run, add_everything):
    folder = make_run()
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    metrics = folder / "finetune" / "metrics.csv"
    metrics.write_text(f"{metrics.read_text()}30,40,1.5,,\n40,40,2,1.2,60\n50,40")
    (run,) = load_runs(folder)
    assert run.fits[0].epochs == (0.5, 1.0, 2.0) and run.fits[0].loss == (2.1, 1.5, 1.2)
    metrics.write_text("")
    (run,) = load_runs(folder)
    assert run.fits[0].epochs == ()


def test_a_member_of_a_table_of_zeros_is_compared(make_run):
    folder = make_run()
    data = yaml.safe_load((folder / "run.yaml").read_text())
    for row in data["published"].values():
        row["latency_ms"] = 0
    (folder / "run.yaml").write_text(yaml.safe_dump(data))
    verdict = otherwise(load_runs(folder)).verdict
    assert verdict.endswith((" and is slower.", " and is as fast."))


@pytest.mark.parametrize("name", ["../../../../escaped", "/escaped", "a/b", "..", "x" * 300])
def test_names_of_devices_lead_out_of_no_folder(make_run, check_file, tmp_path, monkeypatch, name):
    # The places count here, not the pictures, which take a while to draw.
    monkeypatch.setattr(Figure, "save", lambda figure, path: write_text(path, figure.title))
    monkeypatch.setattr("nas.figures.svg_to_png", str.encode)
    folder = make_run()
    arch = load_architecture(folder / "architecture.yaml")
    (folder / "check-other.yaml").write_text(yaml.safe_dump(check_file(arch, name)))
    (run,) = load_runs(folder)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    written = {path.resolve() for path in write_pictures(run)}
    about = run.about.model_copy(
        update={"table": run.about.table.model_copy(update={"device": name})}
    )
    several = replace(run, about=about, name=f"{run.name} on {name}")
    written |= {path.resolve() for path in write_pictures(several)}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == written
    assert all(folder.resolve() / "pictures" in path.parents for path in written)


def test_a_run_on_several_devices_is_a_report_each(nas_search_several):
    runs = load_runs(nas_search_several)
    assert [run.device for run in runs] == ["toy", "slow"]
    assert [run.name for run in runs] == ["both on toy", "both on slow"]
    assert (
        runs[0].architecture == runs[1].architecture
        and runs[0].front.points != runs[1].front.points
    )
    for run in runs:
        assert run.about.result.latency_ms == pytest.approx(
            load_table(run.device).total_ms(run.architecture)
        )
        assert run.trajectory is None and run.breakdown


@pytest.fixture
def nas_search_several(workplace, made_up_table):
    from nas.cli.options import run_command

    made_up_table(workplace.space, seed=3, name="slow").save("latency_tables/slow")
    run_command("search", space="small", device=["toy", "slow"], out="runs/both", json=True)
    return Path("runs/both")


def test_words_tell_optimum_and_what_the_figures_rest_on(make_run):
    (slim,) = load_runs(make_run())
    (best,) = load_runs(make_run("two", engine="exact"))
    assert "It is the proven optimum" in meaning([best])[-1]
    missed = slim.about.result.cost - best.about.result.cost
    assert (f"is {missed:.2f} points more accurate" in meaning([slim])[-1]) == (missed >= 0.005)
    accuracy, latency = (text for _, text in rests_on(slim))
    assert latency == "estimated table of toy, no chip, none 0; not checked on whole networks."
    assert "made up for a test" in accuracy and "90.0 % on these 5000 images" in accuracy


def test_the_images_that_were_used_are_told(make_run, add_everything):
    folder = make_run()
    record = {"file": "images.csv", "sha256": "0123456789abcdef", "trained": 80, "held_out": 20}
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    (run,) = load_runs(folder)
    assert [name for name, _ in rests_on(run)] == ["Accuracy", "Latency"], "of an older version"
    for path in (folder / "run.yaml", folder / "finetune" / "finetune.yaml"):
        write_yaml(path, {**YamlFile(path).data, "images": record | {"unknown": ["a.pth"]}})

    def lines() -> dict[str, str]:
        (run,) = load_runs(folder)
        return dict(rests_on(run))

    used = (
        "trained on 80 images, chosen by 20 held-out ones (images.csv, SHA-256 0123456789ab); the"
        " images of a.pth are not recorded"
    )
    assert lines()["Images"] == f"search: {used}."
    none = "none of the 300 test images is among them"
    assert lines()["Images, finetune"] == f"{used}; {none}."
    path = folder / "finetune" / "finetune.yaml"
    about = YamlFile(path).data
    left_out = {"left_out_of_test": {"trained": 3, "held_out": 4}}
    write_yaml(path, {**about, "images": record | left_out})
    assert lines()["Images, finetune"].endswith(
        f"{none}: 7 were left out of the test (3 trained on, 4 held out)."
    )
    write_yaml(path, {**about, "accuracy": {**about["accuracy"], "test": None}})
    assert "no test images, so its accuracy is on the held-out ones" in lines()["Images, finetune"]
    assert "SHA-256 0123456789ab" in render(load_runs(folder), "nas report one")


@pytest.mark.parametrize(
    ("command", "plain"),
    [
        ("nas search --space a --out 'b c' --front", "nas search --space a --front"),
        ("nas search --out=b --space a", "nas search --space a"),
    ],
)
def test_a_command_without_its_folder(command, plain):
    assert without(command, "--out") == plain


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("nas search --space small; touch escaped", "nas search --space 'small;' touch escaped"),
        ("nas search $(touch escaped)", "nas search '$(touch' 'escaped)'"),
        ("rm -rf runs", ""),
        ("nas 'open", ""),
    ],
)
def test_a_strangers_command_is_not_named_as_the_next_one(make_run, command, named):
    folder = make_run(with_front=False)
    data = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump({**data, "command": command}))
    Path("latency_tables/toy/table.csv").unlink()
    (run,) = load_runs(folder)
    (gap,) = (gap for gap in run.left_out if gap.part == "Pareto front")
    assert gap.command == (named and f"{named} --front")


@pytest.mark.parametrize(
    ("file", "good", "bad", "reason"),
    [
        ("run.yaml", "nas-run-1", "nas-run-9", "run.yaml:1: format: is 'nas-run-9'"),
        ("run.yaml", "latency_ms:", "latency:", "latency_ms: is missing"),
        ("run.yaml", "result:", "result: [", "malformed YAML"),
        ("run.yaml", "expected_error: null", "expected_error: much", "table.expected_error: "),
        ("trace.csv", "total_cost", "total", "trace.csv:1: column 'total_cost' is missing"),
        ("trace.csv", "\n1,", "\nx,", "trace.csv:2: step: 'x' is not a finite number"),
        ("front.csv", "ms,cost", "ms,costs", "front.csv:1: column 'cost' is missing"),
        ("architecture.yaml", "width: ", "wide: ", "architecture.yaml:"),
        ("architecture.yaml", "expansion: 2", "expansion: 3", "is not the network that"),
        (
            "check-toy.yaml",
            "measured_ms: 0.5",
            "measured_ms: fast",
            "check-toy.yaml:4: measured_ms: ",
        ),
        (
            "check-toy.yaml",
            "stage1_block",
            "stage9_block",
            "is not an operation of the run's architecture",
        ),
        (
            "finetune/metrics.csv",
            "20,20,1,1.5,52",
            "20,20,1",
            "metrics.csv:3: has 3 values (expected 5, as the header)",
        ),
        (
            "finetune/finetune.yaml",
            "accuracy: 71.5",
            "accuracy: good",
            "accuracy.held_out.ema.accuracy: ",
        ),
        ("run.yaml", "latency_error: null", "latency_error: -1", "result.latency_error: "),
        ("run.yaml", "latency_ms: ", "latency_ms: -", "latency_ms: "),
        ("run.yaml", "  cost: ", "  cost: 1e300 # ", "cost: "),
        ("check-toy.yaml", "measured_ms: 0.5", "measured_ms: 0", "check-toy.yaml:4: measured_ms: "),
        (
            "finetune/finetune.yaml",
            "standard_error: 2.0",
            "standard_error: -2.0",
            "accuracy.held_out.raw.standard_error: ",
        ),
        ("export/export.yaml", "bytes: 1500000", "bytes: many", "targets.onnx.bytes: "),
        (
            "../../experiments/small-toy/alpha.csv",
            "identity",
            "none",
            "alpha.csv:1: column 'identity' is missing",
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line(make_run, add_everything, file, good, bad, reason):
    folder = make_run()
    add_everything(folder, load_architecture(folder / "architecture.yaml"))
    text = (folder / file).read_text()
    assert good in text
    (folder / file).write_text(text.replace(good, bad, 1))
    with pytest.raises(InputError) as refused:
        load_runs(folder)
    assert reason in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("file", ["trace.csv", "architecture.yaml"])
def test_a_half_written_run_is_named(make_run, file):
    folder = make_run()
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file}: cannot be read"):
        load_runs(folder)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("runs", "is not a finished run"), ("nowhere", "there is no such run folder")],
)
def test_no_run_is_told_with_the_remedy(make_run, folder, reason):
    make_run()
    with pytest.raises(InputError, match=rf"{folder}: {reason}.*Fix: make one with nas search"):
        load_runs(folder)


def test_figures_are_plain_json_and_pictures_of_odd_names_are_drawn(make_run, tmp_path):
    (run,) = load_runs(make_run())
    odd = replace(
        run.front,
        published=tuple(replace(p, label="<b>x</b> $y$ \x1b[1m") for p in run.front.published),
    )
    for figure in (front_figure(odd), fronts_figure({"<i>run</i>": odd, "b": odd})):
        text = json.dumps(figure.document())
        assert "<b>x</b> $y$ " in text and "\\u001b" not in text and r"\\x1b[1m" in text
        figure.save(tmp_path / "odd.svg")
        assert "<b>" not in (tmp_path / "odd.svg").read_text()


def test_a_search_that_evaluates_members_shows_no_scores_beside_its_steps(make_run):
    folder = make_run()
    path = folder / "run.yaml"
    data = yaml.safe_load(path.read_text())
    data["score_by"] = {
        "name": "evaluate",
        "best": 8,
        "judge": "the sliced supernet runs/s on digits",
        "images": 100,
    }
    data["result"] |= {"evaluated": 61.5, "drop": 2.25}
    data["target"] |= {"params": 1.5e6, "memory_mb": 2.5}
    path.write_text(yaml.safe_dump(data))
    (run,) = load_runs(folder)
    assert run.trajectory.published == () and run.front.published
    assert "evaluated by the sliced supernet runs/s" in run.trajectory.note
    tile = next(tile for tile in tiles(run) if tile.label == "Accuracy in the supernet")
    assert tile.value == "61.50 %" and "2.25 points below the largest" in tile.about
    assert "at most 1.5 M parameters and at most 2.5 MB peak memory on" in meaning([run])[0]
    assert "By these scores, no member within the limits is more accurate" in meaning([run])[-1]
    assert "members were evaluated by the sliced supernet runs/s" in rests_on(run)[0][1]
    assert run.trajectory.axis.label == "top-1 of the sliced supernet (%)"
    assert run.trajectory.points[-1].accuracy == pytest.approx(
        63.75 - run.trajectory.points[-1].cost
    )
