"""Print constraints.txt from the environment that runs this script; `make pin` calls it.

A version that needs a newer Python than the oldest supported one is pinned only from that Python
on. So the same file serves 3.10, where pip then chooses within pyproject.toml's ranges. Packages
for a GPU are left out: they follow torch.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OURS = {"nas-mobile", "pip", "setuptools", "wheel"}
GPU = ("nvidia-", "cuda-", "triton")


def line(package: Distribution) -> str:
    """Return the pin of a package, with a marker where it needs a newer Python."""
    name = package.metadata["Name"]
    allowed = SpecifierSet(package.metadata.get("Requires-Python") or "")
    # Patch release 99 stands for the newest of a minor version, as bounds like >=3.10.2 occur.
    oldest = next(python for python in PYTHONS if f"{python}.99" in allowed)
    marker = f"; python_version >= '{oldest}'" if oldest != PYTHONS[0] else ""
    # Without the local version, as in 2.9.0+cpu, which PyPI does not have.
    return f"{name}=={package.version.split('+')[0]}{marker}"


def main() -> None:
    print("# The one set of versions that is tested (Python 3.11, Linux, CPU). Made by `make pin`.")
    names = {package.metadata["Name"]: package for package in distributions()}
    for name in sorted(names, key=str.lower):
        if name.lower() not in OURS and not name.lower().startswith(GPU):
            print(line(names[name]))


if __name__ == "__main__":
    main()
