"""The run folder holds what went in, every step and what came out, and never overwrites another
one."""

from __future__ import annotations

import csv
import hashlib

import pytest
import yaml

from nas.errors import InputError, NasError
from nas.files import write_yaml
from nas.latency import load_table
from nas.report.front import front_figure, front_picture
from nas.report.trajectory import trajectory, trajectory_figure
from nas.runs.schema import read_about
from nas.search import load_scores, pose, solve
from nas.search.compare import answers
from nas.search.engines.exact import front
from nas.search.fastest import fastest
from nas.search.record import new_folder, not_left_empty, write_front, write_run
from nas.space import load_architecture, load_space


@pytest.fixture
def searched(workplace):
    space = load_space("small")
    table = load_table("toy")
    problem = pose(space, table, load_scores("small"), fastest(space, table)[0] * 1.2)
    return problem, solve(problem)


def test_the_folder_holds_inputs_steps_and_result(workplace, searched):
    problem, found = searched
    folder = new_folder(None, "small", "toy")
    write_run(folder, problem, found, ["nas", "search", "--space", "a b"])
    assert sorted(p.name for p in folder.iterdir()) == [
        "architecture.yaml",
        "run.yaml",
        "trace.csv",
    ]
    assert load_architecture(folder / "architecture.yaml") == found.architecture
    rows = list(csv.DictReader((folder / "trace.csv").open()))
    assert [row["move"] for row in rows] == [str(step.move) for step in found.trace]
    for row, step in zip(rows, found.trace, strict=True):
        assert (row["action"], float(row["ms"]), float(row["total_cost"])) == (
            step.action,
            step.ms,
            step.total_cost,
        )
        assert (int(row["macs"]), int(row["params"])) == (step.macs, step.params)
    run = yaml.safe_load((folder / "run.yaml").read_text())
    assert run["command"] == "nas search --space 'a b'"
    assert (
        run["table"]["provenance"] == "estimated"
        and run["target"]["latency_ms"] == problem.target_ms
    )
    for name, file in (
        ("space", workplace.space_file),
        ("table", workplace.table_file),
        ("scores", workplace.scores_file),
    ):
        assert run[name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert run["result"]["latency_ms"] == found.ms and run["result"]["widths"] == list(
        found.architecture.widths
    )


def test_folders_of_the_same_second_get_a_counter(workplace):
    folders = {new_folder(None, "small", "toy") for _ in range(5)}
    assert len(folders) == 5 and all(folder.is_dir() for folder in folders)


def test_a_named_folder_is_made_but_never_overwritten(tmp_path):
    folder = new_folder(str(tmp_path / "a" / "b"), "small", "toy")
    assert folder.is_dir()
    (folder / "begun.yaml").unlink()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        new_folder(str(folder), "small", "toy")
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        new_folder(str(folder / "mine.txt"), "small", "toy")
    with pytest.raises(NasError, match=r"mine\.txt.*cannot be made"):
        new_folder(str(folder / "mine.txt" / "x"), "small", "toy")


def test_a_folder_goes_on_by_the_command_that_began_it_until_it_has_a_run(
    searched, tmp_path, monkeypatch
):
    asked = str(tmp_path / "o")
    command = "nas search --space small"
    folder = new_folder(asked, "small", "toy", command)
    (folder / ".trace.csv.a1b2c3d4.part").mkdir()
    monkeypatch.setattr("nas.temporary._swept", set())  # the next process
    assert new_folder(asked, "small", "toy", command) == folder
    assert [path.name for path in folder.iterdir()] == ["begun.yaml"]
    with pytest.raises(
        InputError, match=r"unfinished search of another command. Fix: nas search --space small --o"
    ):
        new_folder(asked, "small", "toy", "nas search --space other")
    problem, found = searched
    write_run(folder, problem, found, ["nas", "search"])
    assert not (folder / "begun.yaml").exists()
    with pytest.raises(InputError, match="exists already and is not an empty folder"):
        new_folder(asked, "small", "toy", command)


def test_a_kill_before_anything_was_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.temporary._swept", set())
    (tmp_path / "o" / ".begun.yaml.a1b2c3d4.part").mkdir(parents=True)
    assert new_folder(str(tmp_path / "o"), "small", "toy", "nas search") == tmp_path / "o"


@pytest.mark.parametrize("written", [[], ["trace.csv"]])
def test_a_search_that_fails_leaves_no_folder_without_results(tmp_path, written):
    folder = new_folder(str(tmp_path / "o"), "small", "toy", "nas search")
    with pytest.raises(NasError), not_left_empty(folder):
        for name in written:
            (folder / name).touch()
        raise NasError("none of 5 trials is within the limits")
    assert folder.exists() == bool(written)
    # Where results are there, the same command goes on.
    assert new_folder(str(tmp_path / "o"), "small", "toy", "nas search") == folder


def test_the_picture_shows_the_start_every_step_and_the_published_members(searched, tmp_path):
    problem, found = searched
    data = trajectory(problem, found)
    assert (data.points[0].cost, data.points[0].ms) == (
        0,
        problem.table.total_ms(problem.space.largest()),
    )
    assert [(p.label, p.ms, p.cost) for p in data.points[1:]] == [
        (s.action, s.ms, s.total_cost) for s in found.trace
    ]
    assert [p.label for p in data.published] == ["s", "l"]
    assert "estimated table" in data.note and "made up for a test" in data.note
    trajectory_figure(data).save(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_front_is_a_row_a_member_and_a_picture(workplace, searched, tmp_path):
    problem, found = searched
    points = front(problem)
    others = answers(problem, found)
    assert list(others) == ["exact", "slimming"] and others["exact"].cost <= others["slimming"].cost
    write_front(tmp_path, problem, points)
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    assert [(float(row["ms"]), float(row["cost"])) for row in rows] == [
        (p.ms, p.cost) for p in points
    ]
    for row, point in zip(rows, points, strict=True):
        arch = point.architecture
        assert (int(row["macs"]), int(row["params"])) == (arch.macs, arch.params)
        assert row["widths"] == "-".join(map(str, arch.widths))
        kinds = [row[f"stage3_block{position}"].partition("(")[0] for position in (1, 2, 3)]
        assert kinds == [block.kind for block in arch.stages[2].blocks]
    data = front_picture(problem, points, others)
    assert [(p.ms, p.cost) for p in data.points] == [(p.ms, p.cost) for p in points]
    assert [p.label for p in data.found] == ["exact", "slimming"] and [
        p.label for p in data.published
    ] == ["s", "l"]
    front_figure(data).save(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_found_member_draws_and_saves_its_way(workplace, tmp_path):
    space = load_space("small")
    table = load_table("toy")
    scores = load_scores("small")
    found = solve(pose(space, table, scores, fastest(space, table)[0] * 1.2))
    figure = found.plot()
    line, _, answer, bar = (each["data"]["values"] for each in figure.spec["layer"])
    assert len(line) == len(found.trace) > 0
    assert (line[-1]["x"], line[-1]["y"]) == pytest.approx((found.ms, found.accuracy.value))
    assert (answer[0]["x"], answer[0]["y"]) == pytest.approx((found.ms, found.accuracy.value))
    assert bar[0]["high"] - bar[0]["y"] == pytest.approx(2 * found.accuracy.standard_error)
    assert "top1" in figure.spec["layer"][0]["encoding"]["y"]["title"]
    assert "<svg" in figure._repr_svg_()
    found.save(tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "architecture.yaml",
        "trace.csv",
    }


def test_a_run_knows_the_classes_of_its_supernet(workplace, searched, tmp_path):
    problem, found = searched
    supernet = tmp_path / "trained"
    write_yaml(supernet / "supernet.yaml", {"data": {"classes": ["cat", "dog"]}, "recipe": {}})
    for name, classes in ((str(supernet), ("cat", "dog")), (str(tmp_path / "gone"), ())):
        folder = new_folder(None, "small", "toy")
        write_run(folder, problem, found, ["nas"], name)
        about = read_about(folder)["toy"]
        assert (about.supernet, about.classes) == (name, classes)
