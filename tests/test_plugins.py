"""Blocks, spaces, devices and kinds of other packages: the example conforms, a broken one is named, a
clash refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nas.blocks
import nas.plugins
from nas.blocks import MB4D, Shape, from_dict
from nas.blocks.build import build_block
from nas.blocks.efficientformer.module import MB4DBlock
from nas.devices import KINDS, Device, Settings
from nas.devices.farms import FARMS
from nas.errors import InputError
from nas.export import TARGETS
from nas.latency.importing import FORMATS, import_table
from nas.latency.known_devices import known_devices, opened
from nas.plugins import Registry
from nas.search import ENGINES
from nas.space import load_space, space_names
from nas.tasks import TASKS
from nas.testing.blocks import check_block, check_kind
from nas.testing.devices import check_device, check_device_kind
from nas.testing.spaces import check_space

EXAMPLE = Path(__file__).parent / "example_package"


def forget() -> None:
    """What was found of other packages."""
    nas.plugins._installed.cache_clear()
    nas.blocks._brought.cache_clear()
    nas.space.schema._read.cache_clear()


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the example package into, as from its source, with no network."""
    target = tmp_path_factory.mktemp("site")
    command = [
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--target",
    ]
    subprocess.run(
        [sys.executable, *command, str(target), str(_copy(tmp_path_factory))], check=True
    )
    return target


def _copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the example, where a build may write into it."""
    return Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example"))


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(installed))
    return installed


def bring(folder: Path, package: str, group: str, name: str, value: str, **modules: str) -> None:
    """What pip leaves of a package with one entry point and these modules."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that packages are brought into."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_examples_block_conforms(example: Path) -> None:
    spec = from_dict({"kind": "gated_conv", "expansion": 4})
    shape = Shape(16, 8, 6)
    narrower = [
        (
            from_dict({"kind": "gated_conv", "expansion": expansion, "activation": activation}),
            Shape(channels, 8, 6),
        )
        for expansion, activation, channels in ((4, "silu", 12), (2, "silu", 16), (1, "relu", 5))
    ]
    check_block(spec, shape, narrower)
    check_kind(type(spec), convert=False)
    with pytest.raises(ValueError, match="gated_conv: expansion 0 must be at least 1"):
        from_dict({"kind": "gated_conv", "expansion": 0})


def test_the_examples_space_conforms(example: Path) -> None:
    space = load_space("gated")
    assert "gated" in space_names() and Path(space.path).is_relative_to(example)
    check_space(space)
    assert load_space(space.path) == space


def test_the_examples_device_conforms(example: Path) -> None:
    (known,) = [device for device in known_devices() if device.name == "formula"]
    assert known.connected and "nas-example" in known.kind
    with opened("formula", Settings(threads=2)) as (device,):
        assert device.info().threads == 2
        check_device(device)


def test_the_examples_kind_of_device_conforms(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_device_kind("rack")
    (known,) = [device for device in known_devices() if device.name == "rack-phone"]
    assert known.connected and known.kind == "rack" and len(known.units) == 2
    with opened("rack-phone", Settings(threads=2)) as both, opened("R2", Settings()) as one:
        assert len(both) == 2 and len(one) == 1
        assert both[0].info().kind == "rack" and both[0].info().name == "rack-phone"
        check_device(both[0])
    file = tmp_path / "latency_tables" / "mine" / "phone.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "format: nas-phone-1\nname: mine\nkind: rack\nsoc: chip\nmatch: {model: [Formula]}\n"
        "compute_unit: cpu\nprecision: float32\n"
    )
    monkeypatch.chdir(tmp_path)
    with opened("mine", Settings()) as phones:
        assert [phone.info().name for phone in phones] == ["mine", "mine"]


def test_the_command_line_takes_all_of_them(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": f"{installed}{os.pathsep}{Path(nas.__file__).parents[1]}"
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "nas", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(run("spaces", "gated", "--json"))
    (rack,) = [each for each in json.loads(run("devices", "--json")) if each["kind"] == "rack"]
    assert [unit["serial"] for unit in rack["units"]] == ["R1", "R2"]
    profiled = json.loads(run("profile", "--space", "gated", "--device", "formula", "--json"))
    assert profiled["failed"] == {} and profiled["measured"] > 0
    checked = json.loads(run("check", "--device", "formula", "--nets", "4", "--json"))
    assert checked["mape"] < 5


def test_nothing_of_a_package_is_imported_before_its_name_is_asked_for(installed: Path) -> None:
    program = (
        "import sys, nas.cli, nas.blocks, nas.space; nas.space.load_space('emo');"
        " nas.space.space_names()\nprint([name for name in sys.modules if"
        " name.startswith('nas_example')])\nnas.space.load_space('gated');"
        " nas.blocks.from_dict('gated_conv')\nprint('torch' in sys.modules, 'nas_example.specs' in"
        " sys.modules, 'nas_example.blocks' in sys.modules)"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{installed}{os.pathsep}{Path(nas.__file__).parents[1]}"
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "False True False"]


@pytest.mark.parametrize(
    ("group", "name", "ask"),
    [
        ("nas.blocks", "mb4d", lambda: from_dict("unheard_of")),
        ("nas.spaces", "emo", space_names),
        ("nas.devices", "host", known_devices),
        ("nas.device_kinds", "coreml", known_devices),
        ("nas.farms", "qai-hub", lambda: list(FARMS)),
        ("nas.engines", "exact", lambda: list(ENGINES)),
        ("nas.targets", "litert", lambda: list(TARGETS)),
        ("nas.formats", "csv", lambda: list(FORMATS)),
    ],
)
def test_a_name_of_ours_is_refused_with_both_packages(site: Path, group, name, ask) -> None:
    bring(site, "their-things", group, name, "theirs:thing")
    with pytest.raises(
        InputError,
        match=f"'{name}' of package their-things: package nas-mobile also has this name",
    ):
        ask()


def test_a_name_that_two_packages_bring_is_refused_with_both(site: Path) -> None:
    bring(site, "first-things", "nas.spaces", "twice", "first")
    bring(site, "second-things", "nas.spaces", "twice", "second")
    with pytest.raises(
        InputError,
        match="'twice' of package second-things: package first-things also has this name",
    ):
        load_space("twice")


@pytest.mark.parametrize(
    ("value", "text", "reason"),
    [
        ("absent_one:Spec", "", "absent_one:Spec cannot be imported .ModuleNotFoundError"),
        (
            "theirs_a:Spec",
            "raise RuntimeError('no licence\\nsecond line')",
            "RuntimeError: no licence",
        ),
        ("theirs_b:Spec", "", "cannot be imported .AttributeError"),
        ("theirs_c:Spec", "Spec = 3", "is not a BlockSpec of this kind"),
        ("theirs_d:Spec", "from nas.blocks import MB4D as Spec", "is not a BlockSpec of this kind"),
    ],
)
def test_a_broken_block_gets_one_line_that_names_the_package(
    site: Path, value, text, reason
) -> None:
    bring(
        site,
        "their-things",
        "nas.blocks",
        "theirs",
        value,
        **{value.partition(":")[0]: text} if text else {},
    )
    if value.startswith("theirs_b"):
        (site / "theirs_b.py").write_text("")
    with pytest.raises(
        InputError, match=f"block 'theirs' of package their-things: .*{reason}"
    ) as caught:
        from_dict("theirs")
    assert "\n" not in str(caught.value) and "pip uninstall their-things" in str(caught.value)


def test_a_spec_without_its_module_gets_one_line() -> None:
    class Lost(MB4D):
        kind = "lost"
        module = "nowhere.to_be:Found"

    with pytest.raises(
        InputError, match=r"block 'lost': nowhere.to_be:Found cannot be imported \(ModuleNotFound"
    ):
        build_block(Lost(), Shape(8, 4, 4))


def test_a_space_without_its_file_gets_one_line(site: Path) -> None:
    bring(site, "their-things", "nas.spaces", "theirs", "their_spaces")
    with pytest.raises(
        InputError, match="space 'theirs' of package their-things: their_spaces is not a package"
    ):
        load_space("theirs")
    (site / "their_spaces").mkdir()
    (site / "their_spaces" / "__init__.py").write_text("")
    with pytest.raises(InputError, match=r"theirs\.yaml is missing in their_spaces"):
        load_space("theirs")
    with pytest.raises(InputError, match="unknown space 'thirs', did you mean 'theirs'"):
        load_space("thirs")


def test_a_space_of_the_working_directory_wins(site: Path, workplace) -> None:
    bring(site, "their-things", "nas.spaces", "small", "their_spaces")
    assert load_space("small").path == str(workplace.space_file)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("open = 3", "is not a function that opens a device"),
        ("def open(settings): raise ValueError('no cable')", "ValueError: no cable"),
        ("def open(settings): return 'a device'", "gave a str, which is not a nas.devices.Device"),
    ],
)
def test_a_broken_device_gets_one_line_that_names_the_package(site: Path, text, reason) -> None:
    module = f"their_device_{len(text)}"
    bring(site, "their-things", "nas.devices", "theirs", f"{module}:open", **{module: text})
    assert "theirs" in [device.name for device in known_devices()], "listing imports nothing"
    wanted = f"device 'theirs' of package their-things: .*{reason}"
    with pytest.raises(InputError, match=wanted), opened("theirs", Settings()):
        pass


REGISTRIES: dict[str, Registry[Any]] = {
    "device kind": KINDS,
    "task": TASKS,
    "engine": ENGINES,
    "target": TARGETS,
    "format": FORMATS,
}


@pytest.mark.parametrize("what", REGISTRIES)
def test_entries_of_a_registry_are_what_they_should_be(what: str) -> None:
    registry = REGISTRIES[what]
    assert len(registry) == len(list(registry)) == len(dict(registry)) >= 2
    assert all(name in registry for name in registry) and "unheard-of" not in registry
    with pytest.raises(KeyError):
        registry["unheard-of"]


@pytest.mark.parametrize("what", REGISTRIES)
def test_a_registry_takes_what_a_package_brings(what: str, site: Path) -> None:
    """Nothing of the package is imported before its name is taken; what is of another kind is
    refused in a line."""
    registry = REGISTRIES[what]
    module = f"their_{what}".replace(" ", "_")
    ours = list(registry)
    good = (
        f"import nas.plugins as p; thing = p.Registry({registry.group!r},"
        f" {registry.ours!r})[{ours[0]!r}]"
    )
    bring(site, "their-things", registry.group, "theirs", f"{module}:thing", **{module: good})
    bring(
        site,
        "bad-things",
        registry.group,
        "wrong",
        f"{module}_wrong:thing",
        **{f"{module}_wrong": "thing = 3"},
    )
    forget()
    assert list(registry) == [*ours, "theirs", "wrong"] and module not in sys.modules
    assert registry["theirs"] is registry[ours[0]]
    with pytest.raises(
        InputError, match=f"{what} 'wrong' of package bad-things: {module}_wrong:thing"
    ) as refused:
        registry["wrong"]
    assert "\n" not in str(refused.value)


def test_an_engine_of_a_package_searches(site: Path, workplace: Any) -> None:
    text = (
        "from nas.search.engines.exact import exact\ndef search(problem):\n    return"
        " exact(problem)\n"
    )
    bring(site, "their-things", "nas.engines", "theirs", "their_search:search", their_search=text)
    given = workplace.space, nas.load_table("toy"), nas.load_scores("small-toy")
    assert nas.search(*given, engine="theirs").cost == nas.search(*given, engine="exact").cost


def test_a_format_of_a_package_is_read(site: Path) -> None:
    text = (
        "from nas.latency.importing.common import Format, Reading\n"
        "THEIRS = Format('Theirs', ('.theirs',), lambda path: Reading(path.read_text()))\n"
    )
    bring(
        site,
        "their-things",
        "nas.formats",
        "theirs",
        "their_format_file:THEIRS",
        their_format_file=text,
    )
    (site / "latencies.theirs").write_text("of theirs")
    assert import_table(site / "latencies.theirs") == ([], [])
    with pytest.raises(InputError, match=r"expected one of .*\.csv \(CSV\), .*\.theirs \(Theirs\)"):
        import_table(site / "latencies.others")


@pytest.mark.parametrize("name", ["info", "prepare", "measure"])
def test_a_device_without_a_method_is_not_made(name: str) -> None:
    methods = {
        each: lambda self, *given: None for each in ("info", "prepare", "measure") if each != name
    }
    with pytest.raises(TypeError, match=f"abstract method '?{name}"):
        type("Half", (Device,), methods)()
    whole = type("Whole", (Device,), methods | {name: lambda self, *given: None})()
    assert whole.profile([]) is None and whole.close() is None
    with whole.borrow_cores():
        pass


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"params": lambda self, shape: 1}, "the formula gives 1"),
        ({"macs": lambda self, shape: 7}, "the formula gives 7"),
        ({"__str__": lambda self: "expansion=3"}, "is another block"),
    ],
)
def test_the_conformance_tests_can_fail(wrong, reason, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, function in wrong.items():
        monkeypatch.setattr(MB4D, name, function)
    with pytest.raises(AssertionError, match=reason):
        check_block(MB4D(2), Shape(8, 6, 6), convert=False)


def test_a_slice_with_a_wrong_axis_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    narrower = [(MB4D(2), Shape(6, 5, 5)), (MB4D(1, activation="relu"), Shape(8, 5, 5))]
    check_block(MB4D(2), Shape(8, 5, 5), narrower, convert=False)
    name = next(name for name, axes in MB4DBlock.axes.items() if axes == ("hidden",))
    monkeypatch.setattr(MB4DBlock, "axes", {**MB4DBlock.axes, name: (None,)})
    with pytest.raises(AssertionError, match=f"{name} is cut to"):
        check_block(MB4D(2), Shape(8, 5, 5), narrower, convert=False)


def test_a_space_whose_supernet_is_too_large_is_found() -> None:
    from nas.testing import spaces

    space = load_space("efficientformer")
    stages = tuple(
        replace(stage, local=tuple(MB4D(4, pool) for pool in (3, 5, 7, 9)), global_=())
        for stage in space.stages
    )
    with pytest.raises(AssertionError, match="times the parameters of its largest member"):
        spaces.check_supernet_size(replace(space, stages=stages, published={}))
