"""Kinds of devices: what is registered, how a name finds its kind, and kinds of other packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nas.plugins
from nas.devices import (
    KINDS,
    Settings,
    UnknownDevice,
    connected_devices,
    litert_converter,
    opened,
    unlisted_devices,
)
from nas.devices.phones import load_phone, phones
from nas.devices.precision import litert_target
from nas.errors import InputError
from nas.export import TARGETS
from nas.latency.bundle import run_bundle
from nas.latency.check.network import exported_file
from nas.testing.devices import check_device_kind

OURS = ("litert-host", "litert-android", "coreml", "litert-board")


@pytest.fixture(autouse=True)
def forgetting() -> Iterator[None]:
    """Forget the packages before and after each test."""
    nas.plugins._installed.cache_clear()
    yield
    nas.plugins._installed.cache_clear()


@pytest.fixture
def their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a kind `theirs` whose class has the given body, of the package their-things."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    # A module of an earlier test would be taken again.
    module = f"their_kind_{abs(hash(tmp_path))}"

    def install(body: str, name: str = "theirs", last: str = "KIND = Theirs()") -> None:
        info = tmp_path / "site" / "their_things-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-things\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[nas.device_kinds]\n{name} = {module}:KIND\n")
        indented = "\n".join(f"    {line}" for line in body.splitlines())
        (tmp_path / "site" / f"{module}.py").write_text(
            "from nas.devices import Connected, DeviceKind\n"
            "from nas.testing.devices import FakeDevice\n"
            f"class Theirs(DeviceKind):\n    name = 'theirs'\n{indented}\n{last}\n"
        )
        nas.plugins._installed.cache_clear()

    return install


GOOD = """\
units = ("cpu", "npu")
phone_files = True
export_target = "onnx"
def connected(self):
    return [Connected("theirs-1", "theirs")]
def open(self, name, settings, opening):
    device = FakeDevice(settings.threads or 1, unit=name)
    device.say = opening.say
    return [device]
"""


@pytest.mark.parametrize(
    ("name", "settings", "option"),
    [
        ("host", {"affinity": "f0"}, "--affinity"),
        ("host", {"affinity": ""}, "--affinity"),
        ("host", {"tool": Path("benchmark_model")}, "--benchmark-model"),
        ("mac", {"threads": 2}, "--threads"),
        ("iphone12", {"affinity": "f0"}, "--affinity"),
    ],
)
def test_settings_that_a_device_does_not_have_are_refused(
    name: str, settings: dict[str, Any], option: str
) -> None:
    with (
        pytest.raises(InputError, match=rf"{option}: has no effect on .*Fix: leave out {option}"),
        opened(name, Settings(**settings)),
    ):
        pass


@pytest.mark.parametrize(
    ("precision", "shared"), [(None, True), ("float32", True), ("int8", False)]
)
def test_a_converter_is_shared_within_one_precision_alone(
    their_kind: Any, precision: str | None, shared: bool
) -> None:
    """A table's name states a precision, so that devices of one profile may have two of them."""
    their_kind(
        "def connected(self):\n    return [Connected('theirs-1', 'theirs')]\n"
        "def open(self, name, settings, opening):\n"
        "    device = FakeDevice()\n    device.converter = opening.converter()\n"
        "    return [device]\n"
    )
    converter = litert_converter()
    try:
        with opened("theirs-1", Settings(precision=precision), converter) as (device,):
            assert (device.converter is converter) == shared  # type: ignore[attr-defined]
            made = device.converter.target  # type: ignore[attr-defined]
            assert made is litert_target(precision)
    finally:
        converter.close()


@pytest.mark.parametrize("name", OURS)
def test_the_kinds_of_ours_conform(name: str) -> None:
    check_device_kind(name)


def test_the_registry_has_the_kinds_in_the_order_in_which_they_are_asked() -> None:
    assert tuple(KINDS) == OURS
    assert {name for name, kind in KINDS.items() if kind.phone_files} == {
        "litert-android",
        "coreml",
    }
    assert {kind.export_target for kind in KINDS.values()} <= set(TARGETS)


def test_looking_at_kinds_imports_no_library_that_reaches_devices() -> None:
    program = (
        "import sys\n"
        "from nas.devices import KINDS\n"
        "from nas.devices.phones import phones\n"
        "assert len(phones()) > 3 and [kind.units for kind in KINDS.values()]\n"
        "heavy = ('torch', 'numpy', 'pandas', 'adbutils', 'coremltools', 'ai_edge_litert', 'asyncio')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("name", "unit", "message"),
    [
        ("host", "gpu", r"^--unit: is not available on the host \(got gpu, expected cpu\)$"),
        (
            "iphone12",
            "npu",
            r"^--unit: is not a unit of Core ML \(got npu, expected one of all, cpu_and_ne,",
        ),
        ("mac", "gpu", r"^(--unit|mac): "),
    ],
)
def test_a_unit_that_the_kind_lacks_is_refused(name: str, unit: str, message: str) -> None:
    with pytest.raises(InputError, match=message), opened(name, Settings(unit=unit)):
        pass


def test_an_unknown_name_is_refused_after_all_kinds_were_asked(their_kind: Any) -> None:
    their_kind(GOOD)
    with (
        pytest.raises(UnknownDevice, match="unknown device 'theirs-2'"),
        opened("theirs-2", Settings()),
    ):
        pass


def test_a_kind_of_a_package_is_listed_and_opened(their_kind: Any) -> None:
    their_kind(GOOD)
    check_names = {device.name: device.kind for device in connected_devices()}
    assert check_names["theirs-1"] == "theirs" and check_names["host"] == "litert-host"
    said: list[str] = []
    with opened("theirs-1", Settings(threads=3), say=said.append) as (device,):
        assert device.info().threads == 3
        device.say("it cools down")  # type: ignore[attr-defined]
    assert said == ["it cools down"]
    assert device.closed  # type: ignore[attr-defined]


def phone_file(kind: str, unit: str) -> Path:
    path = Path("latency_tables") / "mine" / "phone.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(
        f"format: nas-phone-1\nname: mine\nkind: {kind}\nsoc: chip\nmatch: {{model: [M]}}\n"
        f"compute_unit: {unit}\nprecision: float32\n"
    )
    return path


def test_a_phone_file_states_a_kind_of_a_package(their_kind: Any) -> None:
    their_kind(GOOD)
    assert load_phone(phone_file("theirs", "npu")).kind == "theirs" and "mine" in phones()
    with opened("mine", Settings()) as (device,):
        assert device.unit == "mine"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "unit", "reason"),
    [
        (
            "theirs",
            "gpu",
            r":6: compute_unit: is not a unit of theirs phones \(got 'gpu', expected one of cpu, npu",
        ),
        (
            "others",
            "cpu",
            r":3: kind: Input should be 'litert-android', 'coreml' or 'theirs' \(got 'others'\)",
        ),
    ],
)
def test_a_phone_file_is_checked_by_the_registry(
    their_kind: Any, kind: str, unit: str, reason: str
) -> None:
    their_kind(GOOD)
    with pytest.raises(InputError, match=reason):
        load_phone(phone_file(kind, unit))


@pytest.mark.parametrize(
    ("body", "last", "reason"),
    [
        ("", "KIND = 3", r"KIND is not a nas\.devices\.kinds\.DeviceKind"),
        ("", "KIND = Theirs()", r"TypeError: .*abstract"),
        (
            "def connected(self): raise OSError('no network\\nat all')\n"
            "def open(self, *given): return []",
            "KIND = Theirs()",
            "OSError: no network",
        ),
        (
            "def connected(self): return [Connected('theirs-1', 'theirs')]\n"
            "def open(self, *given): return []",
            "KIND = Theirs()",
            r"open gave \[\], expected a list of nas.devices.Device",
        ),
        (
            "def connected(self): return [Connected('theirs-1', 'theirs')]\n"
            "def open(self, *given): return 1 / 0",
            "KIND = Theirs()",
            "ZeroDivisionError",
        ),
    ],
)
def test_a_broken_kind_gets_one_line_that_names_the_package(
    their_kind: Any, body: str, last: str, reason: str
) -> None:
    their_kind(body, last=last)
    with (
        pytest.raises(
            InputError, match=f"^device kind 'theirs' of package their-things: .*{reason}"
        ) as caught,
        opened("theirs-1", Settings()),
    ):
        pass
    assert "\n" not in str(caught.value) and "pip uninstall their-things" in str(caught.value)
    # Devices of ours are opened without a look at the package.
    with pytest.raises(InputError, match=r"^--unit: "), opened("host", Settings(unit="npu")):
        pass


def test_a_note_of_a_kind_is_passed_on(their_kind: Any) -> None:
    before = unlisted_devices()
    their_kind(GOOD + "def unlisted(self): return 'theirs: no key. Fix: export THEIRS_KEY'\n")
    assert unlisted_devices() == [*before, "theirs: no key. Fix: export THEIRS_KEY"]


@pytest.mark.parametrize("kind", OURS[1:])
def test_a_name_of_a_kind_of_ours_is_refused(their_kind: Any, kind: str) -> None:
    their_kind(GOOD, name=kind)
    with pytest.raises(InputError, match=f"device kind '{kind}' .*nas-mobile also has this name"):
        connected_devices()


def test_the_checks_of_a_kind_can_fail(their_kind: Any) -> None:
    their_kind(GOOD.replace('"onnx"', '"nothing"'))
    with pytest.raises(AssertionError, match="export_target 'nothing' is unknown"):
        check_device_kind("theirs")


def test_the_checks_find_a_unit_that_is_not_refused(their_kind: Any) -> None:
    their_kind(GOOD)
    with pytest.raises(AssertionError, match="theirs-1 was opened with the unknown unit"):
        check_device_kind("theirs")


def test_an_export_is_measured_where_the_kind_says_so(
    their_kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.files import tree_sha256
    from nas.runs.exports import Record

    their_kind(GOOD)
    export = Path("run") / "export"
    export.mkdir(parents=True)
    (export / "model.onnx").write_bytes(b"model")
    entry = {"file": "model.onnx", "sha256": tree_sha256(export / "model.onnx")}
    Record(export).put("onnx", entry, {})
    assert exported_file(Path("run"), "theirs") is None
    monkeypatch.setattr(type(KINDS["theirs"]), "measures_exports", True)
    assert exported_file(Path("run"), "theirs") == export / "model.onnx"
    assert exported_file(Path("run"), "litert-host") is None


def bundle_of(folder: Path, name: str, kind: str) -> Path:
    """Write the plan of a bundle without files, and return its folder."""
    plan = {
        "format": "nas-bundle-1",
        "id": "1",
        "device": {"name": name, "kind": kind, "description": ""},
        "space": "small",
        "resolution": "64x64",
        "copies": 3,
        "check": {"nets": 0, "seed": 0},
        "tools": {},
        "files": [],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.mark.parametrize("kind", ["farm", "litert-host"])
def test_a_bundle_of_a_kind_without_a_recipe_here_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"bundle for devices of the kind '{kind}', which"):
        run_bundle(bundle_of(tmp_path, "far", kind))


def test_a_core_ml_bundle_needs_the_phone_file_of_its_phone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = bundle_of(tmp_path, "mine", "coreml")
    with pytest.raises(InputError, match=r"^mine: phone.yaml is missing here. Fix: copy it into"):
        run_bundle(folder)
    phone_file("litert-android", "cpu")
    with pytest.raises(
        InputError, match=r"of another kind \(got litert-android, expected coreml\)"
    ):
        run_bundle(folder)
