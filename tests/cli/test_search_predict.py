"""`nas search` and `nas predict` as a user meets them: one result on stdout, one line for bad
input."""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nas import resources
from nas.files import YamlFile
from nas.latency import table_names
from nas.search import load_scores
from nas.space import load_architecture, load_space, space_names

SEARCH = ["search", "--space", "small", "--device", "toy"]
PREDICT = ["predict", "small_s", "--device", "toy"]


def test_search_tells_its_sources_the_result_and_what_comes_next(nas):
    code, out, err = nas(*SEARCH)
    assert code == 0
    assert "smallest published member, small_s" in err
    for text in (
        "found",
        "small_s",
        "small_l",
        "estimated table of toy in fp32, unknown error",
        "made up for a test",
    ):
        assert text in out
    (run,) = Path("runs").iterdir()
    steps = list(csv.DictReader((run / "trace.csv").open()))
    assert steps and not any(step["move"] in err for step in steps)
    assert err.splitlines()[-1] == f"next: nas report {run}"
    code, _, err = nas(*SEARCH, "--engine", "slimming", "--out", "runs/slim")
    watched = list(csv.DictReader(Path("runs/slim/trace.csv").read_text().splitlines()))
    assert code == 0 and watched and all(step["move"] in err for step in watched)
    code, out, _ = nas("predict", f"{run}/architecture.yaml", "--device", "toy", "--json")
    assert code == 0 and json.loads(out)["ms"] == pytest.approx(float(steps[-1]["ms"]))


def test_search_json_is_one_document_with_the_promised_keys(nas, workplace):
    code, out, _ = nas(*SEARCH, "--latency-ms", "0.4", "--candidates", "paper", "--json")
    document = json.loads(out)
    assert code == 0
    assert {
        "space",
        "device",
        "engine",
        "target_ms",
        "latency_ms",
        "cost",
        "table",
        "scores",
        "run",
        "architecture",
    } <= set(document)
    assert (document["space"], document["device"], document["engine"], document["target_ms"]) == (
        "small",
        "toy",
        "slimming",
        0.4,
    )
    assert (
        document["table"]["provenance"] == "estimated"
        and document["table"]["expected_error"] is None
    )
    assert "made up" in document["scores"]["provenance"]
    assert document["latency_ms"] <= 0.4
    arch = load_architecture(document["architecture"])
    assert (list(arch.widths), list(arch.depths), arch.macs) == (
        document["widths"],
        document["depths"],
        document["macs"],
    )
    assert load_scores("small").cost(arch) == pytest.approx(document["cost"])
    assert (
        yaml.safe_load(Path(document["run"], "run.yaml").read_text())["engine"]["candidates"]
        == "paper"
    )


def test_search_tells_the_optimum_and_writes_the_front(nas):
    code, out, err = nas(*SEARCH, "--engine", "exact", "--front", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (
        document["optimum"]["cost"] == document["cost"]
        and document["optimum"]["missed_by"]["slimming"] >= -1e-9
    )
    rows = list(csv.DictReader(Path(document["run"], "front.csv").read_text().splitlines()))
    assert [point["latency_ms"] for point in document["front"]] == [
        float(row["ms"]) for row in rows
    ]
    assert document["latency_ms"] in [point["latency_ms"] for point in document["front"]]
    assert Path(document["run"], "front.png").exists()
    code, out, _ = nas(*SEARCH)
    assert "exact: the proven optimum of these figures; slimming misses it by" in out


@pytest.mark.parametrize("engine", ["slimming", "exact"])
def test_search_within_further_limits_and_none_on_latency(nas, engine):
    code, out, err = nas(
        *SEARCH,
        "--engine",
        engine,
        "--macs",
        "1.5e6",
        "--params",
        "60e3",
        "--memory-mb",
        "1",
        "--json",
    )
    assert code == 0, err
    document = json.loads(out)
    assert (
        document["limits"] == {"macs": 1.5e6, "params": 60e3, "memory_mb": 1.0}
        and document["target_ms"] is None
    )
    assert document["macs"] <= 1.5e6 and document["params"] <= 60e3 and document["memory_mb"] <= 1
    run = yaml.safe_load(Path(document["run"], "run.yaml").read_text())
    assert run["target"] == {
        "latency_ms": None,
        "reason": document["target_reason"],
        **document["limits"],
    }
    assert "1.5 M MACs" in err


def test_predict_json_is_one_document_with_the_promised_keys(nas, workplace):
    code, out, err = nas(*PREDICT, "--json")
    document = json.loads(out)
    assert code == 0 and {"ms", "breakdown", "provenance", "expected_error"} <= set(document)
    assert sum(bar["ms"] for bar in document["breakdown"]) == pytest.approx(document["ms"])
    names = [bar["name"] for bar in document["breakdown"]]
    assert names == [
        "intercept",
        *(op.name for op in workplace.space.published["small_s"].operations()),
    ]
    assert err.startswith("next: nas search --space small --device toy --latency-ms")


@pytest.mark.parametrize("space", ["", "gone"])
def test_the_next_command_for_a_network_of_no_known_space_measures_it(nas, workplace, space):
    member = workplace.space.published["small_s"]
    replace(member, space=space).save("own.yaml")
    code, _, err = nas("predict", "own.yaml", "--device", "toy")
    assert code == 0 and err.splitlines()[-1] == "next: nas check --device toy own.yaml"


def test_the_next_command_of_the_fastest_member_reaches_it(nas, workplace):
    fastest = workplace.space.smallest()
    fastest.save("fastest.yaml")
    code, _, err = nas("predict", "fastest.yaml", "--device", "toy")
    assert code == 0 and err.startswith("next: nas search ")
    code, out, err = nas(*shlex.split(err.removeprefix("next: nas ")), "--json")
    assert code == 0, err
    assert json.loads(out)["params"] == fastest.params


SHIPPED = [
    name
    for name, folder in table_names().items()
    if folder.parent == resources.shipped(resources.TABLES)
]
SPACES = [
    name for name in space_names() if load_space(name).published
]  # those that ship, not the workplace's


@pytest.mark.parametrize("device", SHIPPED)
@pytest.mark.parametrize(
    "options",
    [
        ["--classes", "3"],
        ["--resolution", "320"],
        ["--resolution", "512x1024", "--segment", "19"],
        [],
    ],
    ids=" ".join,
)
def test_predict_answers_on_every_shipped_device(nas, device, options):
    """Own classes, another size and segmentation, priced where there is no row, with what each
    figure is good for."""
    for space in SPACES:
        member = next(iter(load_space(space).published))
        code, out, err = nas("predict", member, "--device", device, *options, "--json")
        document = json.loads(out)
        assert code == 0 and document["ms"] > 0
        # A table need not have rows of every space: its recipe names those that it has.
        recipe = YamlFile(resources.shipped(resources.TABLES) / device / "estimate.yaml")
        assert (
            (document["priced"] > 0)
            == (bool(options) or space not in recipe.data["spaces"])
            == any(bar["provenance"] == "priced" for bar in document["breakdown"])
        )
        assert document["provenance"] == "estimated" and document["priced"] <= 1
        assert (
            document["standard_error"] >= document["ms"] * document["expected_error"] / 100 - 1e-9
        )
        assert (
            document["leave_one_out_error"] == document["expected_error"]
            and document["calibrated_error"] is None
        )
        assert sum(bar["ms"] for bar in document["breakdown"]) == pytest.approx(document["ms"])
        assert (
            err.strip().endswith(" ".join(options))
            and f"nas search --space {space} --device {device}" in err
        )


def test_predict_says_how_much_is_priced_and_how_sure_it_is(nas):
    member = next(iter(load_space("emo").published))
    _, plain, _ = nas("predict", member, "--device", SHIPPED[0])
    _, priced, _ = nas("predict", member, "--device", SHIPPED[0], "--resolution", "256")
    assert "priced" not in plain and "±" in plain
    assert (
        "priced: " in priced
        and "% of the latency has no row in the table and comes from its cost model" in priced
    )


def test_calibrated_and_left_out_errors_are_told_apart(nas, workplace):
    nets = workplace.folder / "nets.csv"
    nets.write_text("network,latency_ms\nefficientformer_l1,1.31\nswiftformer_s,0.98\n")
    code, out, _ = nas(
        "profile", "--device", "iphone12", "--calibrate", str(nets), "--out", "mine", "--json"
    )
    made = json.loads(out)
    assert code == 0 and made["note"] == "" and made["misfit"] <= made["expected_error"]
    assert made["leave_one_out_error"] == made["expected_error_before"]
    code, out, _ = nas("predict", "efficientformer_l1", "--device", "mine", "--json")
    document = json.loads(out)
    assert document["calibrated_error"] == document["expected_error"] == made["calibrated_error"]
    assert document["leave_one_out_error"] == made["leave_one_out_error"]
    assert "nets.csv" in document["expected_error_source"]


def test_predict_prints_every_operation(nas, workplace):
    code, out, _ = nas(*PREDICT)
    assert code == 0 and "estimated" in out and "expected error unknown" in out
    for operation in workplace.space.published["small_s"].operations():
        assert operation.name in out


def test_a_supernets_scores_resolution_and_classes_are_used_and_its_weights_inherited(
    nas, workplace, made_up_table, made_up_scores, monkeypatch
):
    trained = workplace.space.at(32, 5)
    made_up_scores(trained, 7).save("runs/trained")
    made_up_table(trained).save("latency_tables/toy32")
    asked = []
    monkeypatch.setattr(
        "nas.supernet.checkpoint.extract_to", lambda *arguments: asked.append(arguments)
    )
    code, out, err = nas(
        "search", "--space", "small", "--device", "toy32", "--supernet", "runs/trained", "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    arch = load_architecture(document["architecture"])
    assert (arch.resolution, arch.classes) == ((32, 32), 5)
    assert asked == [("runs/trained", arch, Path(document["run"]) / "weights.safetensors")]
    code, _, err = nas(
        "search",
        "--space",
        "small",
        "--device",
        "toy32",
        "--supernet",
        "runs/trained",
        "--classes",
        "9",
    )
    assert code == 2 and "the supernet was trained on 5" in err


def test_the_space_of_a_supernet_needs_no_naming(
    nas, workplace, made_up_table, made_up_scores, monkeypatch
):
    trained = workplace.space.at(32, 5)
    made_up_scores(trained, 7).save("runs/trained")
    Path("runs/trained/space.yaml").write_text(Path("search_spaces/small.yaml").read_text())
    made_up_table(trained).save("latency_tables/toy32")
    monkeypatch.setattr("nas.supernet.checkpoint.extract_to", lambda *arguments: None)
    named = ["--space", "small"]
    found = [
        load_architecture(json.loads(out)["architecture"])
        for space in (named, [])
        for _, out, _ in [
            nas("search", *space, "--device", "toy32", "--supernet", "runs/trained", "--json")
        ]
    ]
    assert found[0].operations() == found[1].operations()


def test_a_search_needs_a_space_or_a_supernet(nas):
    code, _, err = nas("search", "--device", "toy")
    assert code == 2 and "--space: is missing" in err and "--supernet" in err


def refused(outcome: tuple[int, str, str]) -> str:
    """The one line that bad input gets."""
    code, out, err = outcome
    assert code == 2 and out == "" and "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith("nas: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            ["search", "--space", "smal", "--device", "toy"],
            "unknown space 'smal', did you mean 'small'",
        ),
        (["search", "--space", "small", "--device", "toi"], "did you mean 'toy'"),
        ([*SEARCH, "--engine", "slim"], "unknown engine 'slim', did you mean 'slimming'"),
        (
            [*SEARCH, "--candidates", "al"],
            "--candidates al: is unknown (expected all or paper). Fix: --candidates all",
        ),
        (
            [*SEARCH, "--latency-ms", "0.001"],
            "cannot be reached: the fastest member of space 'small'",
        ),
        (
            [*SEARCH, "--macs", "10"],
            "10 MACs cannot be reached: the member of space 'small' with the least",
        ),
        ([*SEARCH, "--memory-mb", "-1"], "--memory-mb -1: is out of range"),
        (
            [*SEARCH, "--engine", "exact", "--objective", "mes"],
            "objective 'mes' is one of slimming",
        ),
        (
            [*SEARCH, "--latency-ms", "nan"],
            "--latency-ms nan: is not a quantity (expected a positive number of milliseconds",
        ),
        (
            [*SEARCH, "--latency-ms", "-1"],
            "--latency-ms -1: is out of range (expected a number in ms, above 0",
        ),
        ([*SEARCH, "--resolution", "33"], "resolution 33x33"),
        ([*SEARCH, "--classes", "1"], "--classes 1: is out of range"),
        (
            [*SEARCH, "--resolution", "96", "--classes", "3"],
            "nas profile --space small --device toy --resolution 96 --classes 3",
        ),
        ([*SEARCH, "--scores", "nowhere"], "no scores at 'nowhere'"),
        ([*SEARCH, "--supernet", "nowhere"], "there is no such training run"),
        ([*SEARCH, "--freeze", ", ,"], "--freeze , ,: names no part. Fix: --freeze stem,stage1"),
        ([*SEARCH, "--supernet", "search_spaces"], "is not finished (scores.csv is missing)"),
        ([*SEARCH, "--out", "search_spaces"], "exists already and is not an empty folder"),
        (
            ["predict", "small_x", "--device", "toy"],
            "unknown architecture 'small_x', did you mean 'small_",
        ),
        (
            ["predict", "none.yaml", "--device", "toy"],
            "none.yaml: there is no such run folder or architecture file",
        ),
        (["predict", "small_s", "--device", "tox"], "did you mean 'toy'"),
    ],
)
def test_bad_options_get_one_line(nas, arguments, reason):
    assert reason in refused(nas(*arguments))
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", [SEARCH, PREDICT], ids=["search", "predict"])
@pytest.mark.parametrize("value", ["nan", "-1.0", "inf", "fast"])
def test_a_bad_latency_gets_one_line(nas, workplace, command, value):
    lines = workplace.table_file.read_text().splitlines()
    lines[3] = ",".join(value if i == 4 else field for i, field in enumerate(lines[3].split(",")))
    workplace.table_file.write_text("\n".join(lines) + "\n")
    line = refused(nas(*command))
    assert "table.csv:4" in line and "median_ms" in line and value in line


@pytest.mark.parametrize("command", [SEARCH, PREDICT], ids=["search", "predict"])
def test_missing_rows_are_named_with_the_command_that_measures_them(nas, workplace, command):
    lines = workplace.table_file.read_text().splitlines()
    workplace.table_file.write_text(
        "\n".join(line for line in lines if not line.startswith("conv_stem")) + "\n"
    )
    line = refused(nas(*command))
    assert (
        "no row for conv_stem(width=" in line and "nas profile --space small --device toy" in line
    )


@pytest.mark.parametrize(
    ("file", "good", "bad", "reason"),
    [
        ("space_file", "resolution: [64, 64]", "resolution: [64, 64", "small.yaml:"),
        ("space_file", "name: small\n", "name: small\ncolour: red\n", "colour: unknown key"),
        ("table_file", "kind,", "sort,", "table.csv:1"),
        ("scores_file", "cost", "price", "scores.csv:1: column 'cost' is missing"),
        (
            "scores_file",
            "drop,stage1_block1,",
            "drop,stage1_block7,",
            "scores.csv:2: place: the scored space has",
        ),
        (
            "scores_file",
            "drop,stage1_block2,",
            "drop,stage1_block1,",
            "this move duplicates line 2",
        ),
    ],
)
def test_malformed_files_are_named_with_line_and_reason(nas, workplace, file, good, bad, reason):
    path = getattr(workplace, file)
    text = path.read_text()
    assert good in text
    path.write_text(text.replace(good, bad, 1))
    assert reason in refused(nas(*SEARCH))


def test_scores_of_another_space_are_refused(nas, workplace):
    path = workplace.scores_file.with_name("scores.yaml")
    path.write_text(path.read_text().replace("name: small", "name: other"))
    assert "scores of space 'other', not of 'small'" in refused(nas(*SEARCH))


def test_missing_scores_are_refused_with_the_way_to_make_them(nas, workplace):
    workplace.scores_file.unlink()
    assert "search_spaces/small.yaml: scores: unknown scores 'small-toy'" in refused(nas(*SEARCH))


@pytest.mark.parametrize("engine", ["nsga2", "tpe"])
def test_engines_that_try_members_out_go_on_in_their_storage(nas, workplace, engine):
    command = [
        *SEARCH,
        "--engine",
        engine,
        "--seed",
        "3",
        "--storage",
        "sqlite:///study.db",
        "--json",
    ]
    costs = []
    for trials in ("4", "8"):
        code, out, err = nas(*command, "--trials", trials)
        assert code == 0, err
        document = json.loads(out)
        assert document["engine"] == engine and document["latency_ms"] <= document["target_ms"]
        costs.append(document["cost"])
        run = yaml.safe_load((Path(document["run"]) / "run.yaml").read_text())
        told = {
            "name": engine,
            "seed": 3,
            "trials": int(trials),
            "workers": 1,
            "storage": "sqlite:///study.db",
        }
        assert told.items() <= run["engine"].items()
        assert load_architecture(document["architecture"]).space == workplace.space.name
    assert costs[1] <= costs[0]


def test_a_password_is_recorded_nowhere(nas, tmp_path, monkeypatch):
    command = [*SEARCH, "--engine", "nsga2", "--trials", "2", "--out", "o", "--json"]
    address = "sqlite:///study.db?password=hunter2"
    told = [nas(*command, "--storage", address), nas("report", "o", "--json")]
    assert [code for code, _, _ in told] == [0, 0]
    # A run of an older version, which has it.
    (run,) = Path().glob("o/run.yaml")
    assert "***" in run.read_text()
    run.write_text(run.read_text().replace("***", "hunter2"))
    told.append(nas("report", "o", "--json"))
    files = [path.read_text("utf-8", "replace") for path in Path("o").rglob("*.html")]
    assert "hunter2" not in "".join([*files, *(out + err for _, out, err in told)])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--storage", "postgresql://me:hunter2@127.0.0.1:1/x"),
        ("--storage=postgresql://me:hunter2@127.0.0.1:1/x", "--engine", "exact"),
        ("--storage", "me:hunter2@127.0.0.1/x"),
        ("--storage", "postgresql://127.0.0.1:1/x?password=hunter2"),
        ("postgresql://me:hunter2@127.0.0.1:1/x",),
        ("--config", "c.yaml", "--engine", "exact"),
    ],
)
def test_an_error_shows_no_password(nas, arguments):
    Path("c.yaml").write_text("storage: postgresql://me:hunter2@127.0.0.1:1/x")
    code, out, err = nas(*SEARCH, "--engine", "nsga2", *arguments)
    assert code in (1, 2) and out == ""
    assert "***" in err and "hunter2" not in err


def test_a_study_of_another_target_is_one_line(nas):
    command = [
        *SEARCH,
        "--engine",
        "nsga2",
        "--storage",
        "sqlite:///study.db",
        "--study",
        "mine",
        "--trials",
        "2",
    ]
    assert nas(*command)[0] == 0
    code, out, err = nas(*command, "--latency-ms", "0.9")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        "nas: study 'mine' in sqlite:///study.db is of another latency target ms"
    )
    assert "Traceback" not in err
