"""The public API: what `nas` shows, that its functions are functions in whatever order things are
imported, types."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import nas
from nas.blocks import Flatten

ROOT = Path(nas.__file__).parent.parent
PACKAGES = sorted(name for name in nas.__all__ if (ROOT / "nas" / name).is_dir())
"""Functions of the API that have the name of a package."""


def run_python(*lines: str) -> str:
    """Return what a fresh Python process prints that runs these lines."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dir_shows_the_api_and_nothing_else() -> None:
    assert dir(nas) == sorted(nas.__all__)
    public = [getattr(nas, name) for name in dir(nas) if name != "__version__"]
    assert not [each for each in public if isinstance(each, ModuleType)]
    assert all(inspect.isfunction(each) or inspect.isclass(each) for each in public)
    # A package that was imported afterwards does not show up in it, and neither does a module.
    lines = (
        "import nas.search.engines.exact, nas.latency.table, nas.cli, nas",
        "print(dir(nas) == sorted(nas.__all__))",
    )
    assert run_python(*lines) == "True\n"


def test_every_public_name_is_documented() -> None:
    for name in dir(nas):
        assert getattr(nas, name).__doc__, name


@pytest.mark.parametrize(
    "name", [name for name in nas.__all__ if inspect.isfunction(getattr(nas, name))]
)
def test_functions_are_functions(name: str) -> None:
    function = getattr(nas, name)
    assert type(function).__name__ == "function"
    assert pickle.loads(pickle.dumps(function)) is function  # noqa: S301 (our own)
    assert inspect.signature(function).parameters


STATEMENTS = (
    "import nas.search.engines",
    "import nas.search.engines.exact as exact; assert exact.__name__ == 'nas.search.engines.exact'",
    "from nas import search; assert type(search).__name__ == 'function'",
    "from nas.search import search, pose; assert type(search).__name__ == 'function'",
    "import nas.search; assert type(nas.search).__name__ == 'function'",
    "from nas.search import engines; assert set(engines.ENGINES) >= {'exact'}",
    (
        "import sys, importlib; assert importlib.import_module('nas.search') is"
        " sys.modules['nas.search']"
    ),
)


@pytest.mark.parametrize("first", range(len(STATEMENTS)))
def test_search_is_a_function_whatever_was_imported_before(first: int) -> None:
    out = run_python(
        *STATEMENTS[first:],
        *STATEMENTS[:first],
        "import nas, nas.search.solver",
        "assert nas.search.solver.search is nas.search",
        "print(type(nas.search).__name__, type(nas.search.engines).__name__)",
    )
    assert out == "function module\n"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_function_and_its_package_live_together(name: str) -> None:
    """The function has the attributes of the package: `mock.patch("nas.search.solver.pose")` finds
    its way."""
    out = run_python(
        "import importlib, sys, nas",
        f"package = importlib.import_module('nas.{name}')",
        f"assert isinstance(package, type(sys)) and package is sys.modules['nas.{name}']",
        f"function = nas.{name}",
        "package.probe = 1",
        "print(type(function).__name__, function.probe, function.__doc__ != package.__doc__)",
    )
    assert out == "function 1 True\n"


def test_importing_nas_imports_nothing_heavy() -> None:
    heavy = {
        "numpy",
        "torch",
        "pandas",
        "scipy",
        "optuna",
        "pydantic",
        "yaml",
        "vl_convert",
        "rich",
    }
    out = run_python(
        "import sys, nas", "print(*sorted(name for name in sys.modules if '.' not in name))"
    )
    assert not heavy & set(out.split())


PROGRAM = """
    import nas.search.engines
    import nas

    space, table, scores = nas.load_space("emo"), nas.load_table("iphone12"), nas.load_scores("emo")
    found: nas.Found = nas.search(space, table, scores, latency_ms=1.4)
    print(found.architecture.params + 1, found.ms + 1, nas.build(nas.load_architecture("emo_1m")).forward_features)
"""


@pytest.mark.slow(seconds=60)
def test_mypy_in_strict_mode_passes_a_users_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(inspect.cleandoc(PROGRAM) + "\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
        "program.py",
    ]
    environment = {**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert (ROOT / "nas" / "py.typed").is_file(), (
        "without it mypy does not look into an installed package"
    )


MEMBER = "efficientformer_l1"


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One public object of every kind, made as DESIGN.md's block of code makes them."""
    space = nas.load_space("efficientformer")
    table = nas.load_table("iphone12")
    scores = nas.load_scores("efficientformer")
    arch = nas.load_architecture(MEMBER)
    found = nas.search(space, table, scores, latency_ms=1.2)
    slimmed = nas.search(space, table, scores, latency_ms=1.2, engine="slimming")
    return {
        "space": space,
        "architecture": arch,
        "operation": arch.operations()[3],
        "table": table,
        "device": table.device,
        "row": next(iter(table.rows.values())),
        "estimate": table.predict(arch),
        "scores": scores,
        "recorded": nas.load_scores("efficientformer-cifar10"),
        "accuracy": scores.accuracy(arch),
        "found": found,
        "slimmed": slimmed,
        "step": slimmed.trace[0],
        "figure": slimmed.plot(),
        "published": space.published,
        "network": nas.build(arch.at(64)),
        "backbone": nas.backbone(arch.at(64)),
        "finetuned": nas.Finetuned(
            tmp_path_factory.mktemp("run"), arch, {"accuracy": list(range(1000))}
        ),
    }


def test_every_repr_fits_a_screen(objects: dict[str, Any]) -> None:
    long = {name: repr(each) for name, each in objects.items() if len(repr(each)) > 800}
    assert not long
    assert all(repr(each) and repr(each).count("\n") < 10 for each in objects.values())


def test_printing_a_network_shows_its_layers(objects: dict[str, Any]) -> None:
    assert str(objects["network"]).count("\n") > 100


def test_a_repr_shows_an_architecture_that_is_wrong(objects: dict[str, Any]) -> None:
    arch = objects["architecture"]
    assert "invalid: stage1_block1: flatten" in repr(arch.with_block("stage1_block1", Flatten()))


TABLES = {
    "space": {"name", "params", "macs"},
    "table": {"kind", "hyperparameters", "input", "median_ms", "provenance"},
    "estimate": {"name", "kind", "ms", "provenance"},
    "scores": {"name", "cost", "accuracy", "standard_error"},
    "recorded": {"move", "place", "choice", "cost"},
    "found": {"step", "action", "move", "ms", "cost"},
    "slimmed": {"step", "action", "move", "ms", "cost"},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_become_data_frames_and_html(name: str, objects: dict[str, Any]) -> None:
    frame = objects[name].to_frame()
    html = objects[name]._repr_html_()
    assert set(frame.columns) >= TABLES[name]
    assert html.count("<tr>") <= 60 and len(html) < 40_000 and "<table>" in html
    rows = {
        "space": 3,
        "table": len(objects["table"].rows),
        "estimate": len(objects["estimate"].breakdown),
        "found": len(objects["found"].trace),
        "slimmed": len(objects["slimmed"].trace),
    }
    assert len(frame) == rows.get(name, len(frame)) > 0


def test_html_shows_no_text_as_markup(objects: dict[str, Any]) -> None:
    device = replace(objects["table"].device, description="<script>", precision="<b>16</b>")
    assert "<b>16" not in replace(objects["table"], device=device)._repr_html_()


def test_the_frame_of_a_table_has_its_figures(objects: dict[str, Any]) -> None:
    table = objects["table"]
    frame = table.to_frame().set_index(["kind", "hyperparameters", "input"])
    key, row = next(iter(table.rows.items()))
    assert frame.loc[key, "median_ms"] == row.median_ms
    assert objects["estimate"].to_frame()["ms"].sum() == pytest.approx(objects["estimate"].ms)


def test_architectures_by_member_file_and_run_folder(
    objects: dict[str, Any], tmp_path: Path
) -> None:
    arch = objects["architecture"]
    assert arch == objects["space"].published[MEMBER]
    objects["found"].save(tmp_path / "run")
    assert nas.load_architecture(tmp_path / "run") == objects["found"].architecture
    arch.save(tmp_path / "a.yaml")
    assert nas.load_architecture(str(tmp_path / "a.yaml")) == arch
    (tmp_path / "a.yaml").rename(tmp_path / "plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert nas.load_architecture("plain") == arch


def parts_of(objects: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return the first arguments of `nas.search`."""
    return objects["space"], objects["table"], objects["scores"]


def test_numbers_of_numpy_are_numbers(objects: dict[str, Any]) -> None:
    space = objects["space"]
    assert space.sample(np.int64(3)) == space.sample(3)
    assert space.at(np.int64(256)) == space.at((np.int32(256), 256)) == space.at(256)
    assert space.at(classes=np.uint8(7)).largest().to_dict()["head"]["classes"] == 7
    exact = {"latency_ms": np.float32(1.25), "limits": {"macs": np.int64(10**12)}}
    found = nas.search(*parts_of(objects), **exact)
    assert found.architecture == nas.search(*parts_of(objects), latency_ms=1.25).architecture
    assert type(space.at(np.int64(256), classes=np.int64(7)).resolution[0]) is int


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda o: nas.load_architecture("efficientformer_l2"), "did you mean 'efficientformer_l"),
        (
            lambda o: nas.load_architecture(o["space"]),
            "architecture: expected a path or a published member's name",
        ),
        (lambda o: nas.load_space(3), "space: expected a name or a path"),
        (lambda o: nas.load_table(None), "table: expected a device's name or a path"),
        (lambda o: nas.load_scores(o["table"]), "scores: expected a name or a path"),
        (
            lambda o: nas.build(MEMBER),
            r"arch: expected an Architecture .* nas.load_architecture\('efficientformer_l1'\)",
        ),
        (lambda o: o["table"].predict(MEMBER), r"arch: expected an Architecture"),
        (
            lambda o: nas.search("emo", o["table"], o["scores"]),
            r"space: expected a Space .* nas.load_space\('emo'\)",
        ),
        (
            lambda o: nas.search(o["space"], "iphone12", o["scores"]),
            r"table: expected a LatencyTable .*load_table",
        ),
        (
            lambda o: nas.search(o["space"], o["table"], "emo"),
            r"scores: expected Scores .* nas.load_scores\('emo'\)",
        ),
        (
            lambda o: nas.search(o["space"], o["table"], o["scores"], latency_ms="fast"),
            "latency target 'fast'",
        ),
        (
            lambda o: nas.search(o["space"], o["table"], o["scores"], latency_ms="1.2"),
            "latency target '1.2'",
        ),
        (
            lambda o: nas.search(o["space"], o["table"], o["scores"], latency_ms=float("nan")),
            "latency target nan",
        ),
        (
            lambda o: nas.search(o["space"], o["table"], o["scores"], engine="exakt"),
            "did you mean 'exact'",
        ),
        (lambda o: nas.search(o["space"], o["table"], o["scores"], engine=None), "engine"),
        (lambda o: nas.search(o["space"], o["table"], o["scores"], limits={"macs": "1e9"}), "macs"),
        (
            lambda o: nas.search(o["space"], o["table"], o["scores"], evaluate_best="8"),
            "evaluate_best",
        ),
        *(
            (lambda o, option=option: nas.search(*parts_of(o), **option), next(iter(option)))
            for option in (
                {"evaluate_best": None},
                {"evaluate_best": 2.5},
                {"engine": Path("exact")},
                {"engine": np.array([1, 2])},
                {"on_step": 5},
                {"limits": "macs"},
                {"limits": {1: 2}},
                {"study": {"trials": 3}},
                {"evaluations": "supernet"},
                {"freeze": 3},
                {"freeze": [1]},
                {"max_drop": np.array([1.0, 2.0])},
                {"min_accuracy": 1j},
            )
        ),
        (lambda o: o["space"].sample("0"), "seed '0': expected 0 or more"),
        (lambda o: o["space"].sample(1.5), "seed 1.5"),
        (lambda o: o["space"].at("large"), r"resolution 'large': expected one side"),
        (lambda o: o["space"].at(224.5), r"resolution 224\.5"),
        (lambda o: o["space"].at(33), r"resolution 33x33: both sides"),
        (lambda o: o["space"].at((224,)), r"resolution \(224,\)"),
        (lambda o: o["space"].at([]), r"resolution \[\]"),
        (lambda o: o["space"].at(classes=2.5), r"classes 2\.5: expected 2 to 100000"),
        (lambda o: o["architecture"].at(classes=10**9), "classes 1000000000"),
        (lambda o: o["architecture"].at(float("nan")), "resolution nan"),
        (lambda o: o["architecture"].with_head("fpn"), "head: expected a HeadSpec"),
        (lambda o: o["architecture"].with_block("stem", None), "block: expected a BlockSpec"),
        (lambda o: o["architecture"].block(3), "place: expected a Place"),
        (lambda o: o["space"].with_head(None), "head: expected a HeadSpec"),
        (lambda o: o["space"].validate("emo_1m"), r"arch: .*load_architecture\('emo_1m'\)"),
        (lambda o: o["scores"].cost(MEMBER), "arch: expected an Architecture"),
        (lambda o: o["recorded"].cost(None), "arch: expected an Architecture"),
        (lambda o: o["architecture"].save(None), "path: expected the path of a file"),
        (lambda o: o["table"].save(5), "folder: expected the path of a folder"),
        (lambda o: o["found"].save(b"x"), "folder: expected the path of a folder"),
        (lambda o: nas.load_table("x" * 300), "name is longer than 255 bytes"),
        (lambda o: nas.load_architecture(f"runs/{'x' * 300}"), "name is longer than 255 bytes"),
        (lambda o: nas.export(MEMBER, to=5), "to: expected targets"),
        (lambda o: nas.export(MEMBER, to=["config", 5]), "to: expected targets"),
        (lambda o: nas.finetune(MEMBER, "digits", recipe={"epochs": 3}), "recipe: expected"),
        (lambda o: nas.backbone(MEMBER, weights=7), "weights: expected a file or a state dict"),
        (lambda o: nas.import_weights(MEMBER, {}), "net: expected a Network"),
        (
            lambda o: nas.import_weights(o["network"], "w.safetensors"),
            r"state_dict: expected a Mapping .* nas.weights.load_state_dict\('w.safetensors'\)",
        ),
    ],
)
def test_what_is_not_right_is_refused_in_one_line(
    call: Callable[[dict[str, Any]], Any], reason: str, objects: dict[str, Any]
) -> None:
    with pytest.raises(nas.InputError, match=reason) as refused:
        call(objects)
    assert "\n" not in str(refused.value)
