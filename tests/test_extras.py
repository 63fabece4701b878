"""Extras: the core works without them, and whatever needs one says in one line how to install it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import nas.extras
from nas.cli import COMMANDS
from nas.errors import InputError
from nas.export import NEEDS, TARGETS
from nas.extras import DISTRIBUTION, EXTRAS, MissingExtra, install_command, missing_extra, need
from nas.space import space_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED: dict[str, list[str]] = PROJECT["optional-dependencies"]
COLLECTIONS = {"all", "dev"}
"""Extras that hold others and bring no module that nas imports."""

WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Blocker())
"""


def normal(requirement: str) -> str:
    """Return the name in a requirement as indexes compare names."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def declared(extra: str) -> set[str]:
    """Return the distributions that an extra asks for, those of extras in it included."""
    found = set()
    for requirement in DECLARED[extra]:
        inner = re.fullmatch(rf"{DISTRIBUTION}\[(.*)\]", requirement)
        if inner:
            found |= set().union(*map(declared, inner[1].split(",")))
        else:
            found.add(normal(requirement))
    return found


def closure(requirements: Iterable[str]) -> set[str]:
    """Return the distributions that these bring here, with what they need themselves."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = normal(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found.add(name)
            waiting += map(Requirement, requires(name) or ())
    return found


DISTRIBUTIONS = packages_distributions()  # once: it reads every installed file list


def distributions_of(module: str) -> set[str]:
    return {normal(each) for each in DISTRIBUTIONS.get(module, (module,))}


CORE = closure(PROJECT["dependencies"])
OPTIONAL = {
    module
    for module in {module for modules in EXTRAS.values() for module in modules}
    if not distributions_of(module) & CORE  # a library of the core may bring one of them
}


def without(
    arguments: list[str], folder: Path, modules: Iterable[str] = OPTIONAL
) -> subprocess.CompletedProcess[str]:
    """Run nas where these modules cannot be imported."""
    program = WITHOUT + "from nas.__main__ import main\nmain()"
    command = [sys.executable, "-c", program, ",".join(sorted(modules)), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_extras_are_those_of_the_project() -> None:
    assert EXTRAS.keys() | COLLECTIONS == DECLARED.keys()
    everything = set(EXTRAS) - {"vision"}
    assert declared("all") == set().union(*map(declared, everything))
    assert declared("all") <= declared("dev")


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_its_modules(extra: str) -> None:
    for module in EXTRAS[extra]:
        assert distributions_of(module) & declared(extra), module


def test_the_core_has_no_torch() -> None:
    assert "torch" in OPTIONAL
    assert not CORE & {
        "torch",
        "jax",
        "transformers",
        "scikit-learn",
        "accelerate",
        "datasets",
        "coremltools",
    }


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_every_optional_import_of_the_package_is_of_an_extra() -> None:
    """A package that neither the core nor an extra brings would be a traceback for some user."""
    known = (
        {module for modules in EXTRAS.values() for module in modules}
        | sys.stdlib_module_names
        | {"nas"}
    )
    allowed_here = {
        "board": {"tflite_runtime", "tensorflow"},  # run.py of a bundle, on another machine
        # In the environments of the device farms' own clients.
        "farms/workers": {"qai_hub", "runlocal_hub"},
    }
    unknown = set()
    for path in (ROOT / "nas").rglob("*.py"):
        for module in imported(path):
            if module in known or distributions_of(module) & CORE:
                continue
            if not any(
                part in str(path) and module in names for part, names in allowed_here.items()
            ):
                unknown.add((path.name, module))
    # pyarrow and the hub's client come with datasets. HEIC is read where pillow-heif is there.
    brought = {"huggingface_hub", "pyarrow", "pillow_heif"}
    assert {each for each in unknown if each[1] not in brought} == set()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search's run folder, made by the core alone."""
    folder = tmp_path_factory.mktemp("core")
    options = ["--space", "efficientformer", "--device", "iphone12", "--front", "--out", "run"]
    found = without(["search", *options], folder)
    assert found.returncode == 0, found.stderr
    return folder / "run"


def test_the_core_searches_and_draws(run: Path) -> None:
    assert (run / "architecture.yaml").is_file()
    assert list(run.glob("trajectory.*")) and list(run.glob("front.*"))


@pytest.mark.parametrize(
    "command",
    [
        "spaces",
        "devices",
        "data",
        "predict efficientformer_l1 --device iphone12",
        "report run",
        "export run --to config",
        "export efficientformer_l1 --to config",
        "profile --device iphone12 --calibrate times.csv --out table",
    ],
)
def test_the_core_needs_no_extra(run: Path, command: str) -> None:
    times = "network,latency_ms\n" + "".join(
        f"{name},{ms}\n" for name, ms in [("efficientformer_l1", 1.4), ("efficientformer_l3", 3.1)]
    )
    (run.parent / "times.csv").write_text(times)
    result = without(command.split(), run.parent)
    assert result.returncode == 0, result.stderr


def test_the_cores_document_is_json(run: Path) -> None:
    result = without(["spaces", "--json"], run.parent)
    assert [space["name"] for space in json.loads(result.stdout)] == space_names()


SMALL = "--space efficientformer_small"
NEEDING: dict[str, dict[str, str]] = {
    "train": {f"train {SMALL} --data digits": "train"},
    "score": {"score supernet --data digits": "train"},
    "finetune": {"finetune run --data digits": "train"},
    "check": {
        f"check --device snapdragon-8gen1 {SMALL}": "android",
        "check run --device snapdragon-8gen1": "android",
    },
    "profile": {
        f"profile {SMALL} --device host": "litert",
        f"profile {SMALL} --device galaxy-s24": "android",
        f"profile {SMALL} --device galaxy-s24 --bundle b": "litert",
        f"profile {SMALL} --device iphone12 --bundle b": "coreml",
    },
    "export": {
        f"export run --to {target}": NEEDS[target][0] for target in TARGETS if target in NEEDS
    },
}
"""By command: uses of it that need an extra, and which."""
ALWAYS_CORE = {"spaces", "devices", "data", "predict", "report", "search"}


def test_every_command_is_tried() -> None:
    assert NEEDING.keys() | ALWAYS_CORE == set(COMMANDS)
    assert set(NEEDS) == TARGETS.keys() - {"config"}


@pytest.mark.parametrize(
    ("command", "extra"),
    [pytest.param(*case, id=case[0]) for cases in NEEDING.values() for case in cases.items()],
)
def test_a_command_that_lacks_its_extra_names_it(run: Path, command: str, extra: str) -> None:
    result = without(command.split(), run.parent)
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("nas: ") and "which is not installed. Fix: " in last
    assert last.endswith(f"[{extra}]'")
    assert f"{DISTRIBUTION}[" not in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""


def test_the_api_says_it_too(tmp_path: Path) -> None:
    program = (
        WITHOUT
        + "import nas\ntry:\n    nas.build\nexcept nas.InputError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", program, ",".join(OPTIONAL)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("nas.build needs torch, which is not installed. Fix: ")


def test_a_module_that_is_there_is_not_missing() -> None:
    need("a test", "train", "json")
    with pytest.raises(MissingExtra) as caught:
        need("a test", "train", "json", "no_such_module")
    assert (caught.value.extra, caught.value.module) == ("train", "no_such_module")
    assert isinstance(caught.value, InputError)


def test_an_import_that_no_extra_mends_is_left_alone() -> None:
    assert missing_extra(ModuleNotFoundError("no", name="no_such_module")) is None
    assert missing_extra(ImportError("cannot import name 'x' from 'torch'", name="torch")) is None


class TestTheCommandThatInstalls:
    """It names where nas came from, as no index has it."""

    @pytest.fixture(autouse=True)
    def pip_on_the_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nas.extras, "_pip", lambda: ["pip"])

    def installed_from(
        self, monkeypatch: pytest.MonkeyPatch, package: Path, **origin: object
    ) -> None:
        monkeypatch.setattr(nas.extras, "__file__", str(package / "nas" / "extras.py"))
        monkeypatch.setattr(nas.extras, "_direct_url", lambda: origin)

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        folder = tmp_path / "it's here"
        folder.mkdir()
        (folder / "pyproject.toml").write_text(f'name = "{DISTRIBUTION}"')
        return folder

    def test_in_a_checkout(self, monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
        self.installed_from(monkeypatch, checkout)
        monkeypatch.chdir(checkout)
        assert install_command("train") == "pip install '.[train]'"
        self.installed_from(monkeypatch, checkout, dir_info={"editable": True})
        assert install_command("train") == "pip install --editable '.[train]'"

    def test_elsewhere(
        self, monkeypatch: pytest.MonkeyPatch, checkout: Path, tmp_path: Path
    ) -> None:
        self.installed_from(
            monkeypatch, tmp_path / "site-packages", url=checkout.as_uri(), dir_info={}
        )
        monkeypatch.chdir(ROOT)
        path = subprocess.run(
            ["sh", "-c", f"printf %s {install_command('train').split(' ', 2)[2]}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert path == f"{checkout}[train]"
        monkeypatch.chdir(tmp_path)
        assert install_command("train") == "pip install './it'\"'\"'s here[train]'"

    def test_from_a_wheel(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        wheel = tmp_path / "nas.whl"
        wheel.touch()
        self.installed_from(
            monkeypatch, tmp_path / "site-packages", url=wheel.as_uri(), archive_info={}
        )
        monkeypatch.chdir(ROOT)
        assert install_command("onnx") == f"pip install '{wheel}[onnx]'"

    def test_from_a_repository(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        origin = {"url": "https://host/nas.git", "vcs_info": {"vcs": "git"}}
        self.installed_from(monkeypatch, tmp_path, **origin)
        assert (
            install_command("onnx")
            == f"pip install '{DISTRIBUTION}[onnx] @ git+https://host/nas.git'"
        )

    def test_where_the_source_is_gone(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.installed_from(monkeypatch, tmp_path, url=(tmp_path / "gone").as_uri())
        lines = [
            "adbutils<3,>=2.10; extra == 'android'",
            f"{DISTRIBUTION}[litert]; extra == 'android'",
            "torch>=2.8; extra == 'litert'",
            "numpy>=2",
        ]
        monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
        assert install_command("android") == "pip install 'adbutils<3,>=2.10' 'torch>=2.8'"
