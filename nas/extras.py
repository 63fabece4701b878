"""Optional packages: the extra that installs each, and a one-line error where one is missing.

The core (`pip install .`) suffices for a search on latency tables. Training, converting and
measuring need the extras of pyproject.toml. Code that imports an optional package calls `need`
first.

The names of `nas`, `nas.search` and `nas.finetune` are lazy (`lazy_names`): each is imported at its
first use, so importing the package is cheap.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nas.errors import InputError

DISTRIBUTION = "nas-mobile"

EXTRAS: dict[str, tuple[str, ...]] = {
    "frames": ("pandas",),
    "train": (
        "torch",
        "accelerate",
        "datasets",
        "PIL",
        "pandas",
        "pytorch_optimizer",
        "safetensors",
        "sklearn",
        "tensorboard",
    ),
    "vision": ("torchvision", "timm"),
    "litert": ("torch", "ai_edge_litert", "ai_edge_quantizer", "litert_torch", "safetensors"),
    "coreml": ("torch", "coremltools", "safetensors"),
    "onnx": ("torch", "onnx", "onnxruntime", "onnxscript", "safetensors"),
    "android": ("adbutils",),
    "postgres": ("psycopg",),
}
"""The modules that each extra installs. An error names the first extra that has the module."""


class MissingExtra(InputError):
    """An optional package is not installed.

    Attributes:
        extra: the extra of this project that installs it.
        module: the module that cannot be imported.
    """

    def __init__(self, what: str, extra: str, module: str) -> None:
        super().__init__(
            f"{what} needs {module}, which is not installed. Fix: {install_command(extra)}"
        )
        self.extra = extra
        self.module = module


def need(what: str, extra: str, *modules: str) -> None:
    """Check that modules of an extra can be imported, without importing them.

    Args:
        what: the subject of the message: the command, option or function that needs them.
        extra: a key of `EXTRAS`.
        modules: the modules to check; by default all of the extra.

    Raises:
        MissingExtra: for the first module that is not installed, with the command that installs it.
    """
    for module in modules or EXTRAS[extra]:
        if not _is_installed(module):
            raise MissingExtra(what, extra, module)


def missing_extra(error: ImportError, what: str = "this") -> MissingExtra | None:
    """Return the error for a failed import, or None where no extra installs the module.

    It serves the outermost callers, which cannot know what will be imported: the command line and
    `nas.__getattr__`.
    """
    module = (error.name or "").partition(".")[0]
    extra = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if extra is None or _is_installed(module):
        return None
    return MissingExtra(what, extra, module)


def install_command(extra: str) -> str:
    """Return the command that installs an extra into this environment.

    No package index has this project. So the command names the source that nas runs or was
    installed from: a checkout, a wheel or a version control URL. Where that is gone, the command
    installs the extra's own requirements.
    """
    import shlex

    source = _source()
    if source is None:
        return shlex.join([*_pip(), "install", *_requirements(extra)])
    flags, place = source
    requirement = f"{DISTRIBUTION}[{extra}] @ {place}" if "://" in place else f"{place}[{extra}]"
    # Always quoted: zsh takes brackets for a pattern.
    quoted = "'" + requirement.replace("'", "'\"'\"'") + "'"
    return " ".join([shlex.join([*_pip(), "install", *flags]), quoted])


def _is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    # A finder refuses the module, or a stand-in without a spec is loaded in its place.
    except (ImportError, ValueError):
        return module in sys.modules and sys.modules[module] is not None


def _pip() -> list[str]:
    """Return the command of this environment's pip: `pip` where the shell finds that one."""
    import shutil

    python = Path(sys.executable)
    pip = shutil.which("pip")
    if pip is not None and Path(pip).parent == python.parent:
        return ["pip"]
    return [_short(python), "-m", "pip"]


def _source() -> tuple[list[str], str] | None:
    """Return pip's options and the path or URL of this installation's source; None if unknown."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    checkout = Path(__file__).resolve().parents[1]
    origin = _direct_url()
    if _is_checkout(checkout):
        # An editable install stays one.
        return ["--editable"] if origin.get("dir_info", {}).get("editable") else [], _short(
            checkout
        )
    # Not run from a checkout: PEP 610's direct_url.json records what pip installed. With
    # `vcs_info` it is a version control URL, as git+https://..., else `url` is a wheel or a folder.
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        return [], f"{origin['vcs_info']['vcs']}+{url}"
    path = Path(url2pathname(urlsplit(url).path))
    if url.startswith("file:") and (path.is_file() or _is_checkout(path)):
        return [], _short(path)
    return ([], url) if url.startswith("https:") else None


def _is_checkout(folder: Path) -> bool:
    """Return whether a folder is a checkout of this project."""
    project = folder / "pyproject.toml"
    return project.is_file() and f'name = "{DISTRIBUTION}"' in project.read_text(
        encoding="utf-8", errors="replace"
    )


def _short(path: Path) -> str:
    """Return the path for a command line: relative where it lies in the working directory."""
    try:
        relative = path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return str(path)
    if relative == Path():
        return "."
    # pip would look up a bare name in its index.
    return str(relative) if len(relative.parts) > 1 else f"./{relative}"


def _direct_url() -> dict[str, Any]:
    """Return pip's record of this installation's source (PEP 610), empty where there is none."""
    import json
    from importlib.metadata import Distribution, PackageNotFoundError

    try:
        text = Distribution.from_name(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    return dict(json.loads(text)) if text else {}


def _requirements(extra: str) -> list[str]:
    """Return the requirements of an extra from the package's metadata.

    Without metadata they are the names of the extra's modules.
    """
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return sorted(EXTRAS[extra])
    # Metadata lists all requirements of all extras, each with a marker: torch>=2.4; extra ==
    # "train".
    marker = f"extra == '{extra}'"
    requirements = []
    for line in lines:
        requirement, _, condition = (part.strip() for part in line.partition(";"))
        if condition.replace('"', "'") != marker:
            continue
        # An extra may include other extras of this project, as android includes litert.
        if requirement.startswith(f"{DISTRIBUTION}["):
            inner = requirement[len(DISTRIBUTION) + 1 : -1]
            requirements += [
                each for name in inner.split(",") for each in _requirements(name.strip())
            ]
        else:
            requirements.append(requirement)
    return sorted(set(requirements))


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]], always: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    Args:
        package: its `__name__`.
        homes: the names that each module defines.
        always: public names that the package itself defines.
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(importlib.import_module(modules[name]), name)
        except ImportError as error:
            raise missing_extra(error, f"{package}.{name}") or error from None
        # Python calls `__getattr__` only for names that the module lacks. Once the name is set
        # there, later accesses skip it.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted([*modules, *always])

    return get, names


def bind_function(package: str, function: Callable[..., Any]) -> None:
    """Give a function with the name of a package the attributes of that package, too.

    `import nas.search.engines.exact as exact`, `mock.patch("nas.search.solver.solve")` and
    `nas.search.engines.exact` look up `engines` on the attribute `search` of `nas`. With the
    package's namespace as its `__dict__` the function has that attribute. It stays a plain
    function: it is pickled, inspected and type-checked as one.
    """
    function.__dict__ = sys.modules[package].__dict__
