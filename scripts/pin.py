"""Prints constraints.txt from the environment it runs in: `make pin`.

A version that needs a newer Python than the oldest we support is pinned only from that Python on,
so that the same file serves 3.10, where pip then chooses within pyproject.toml's ranges. Packages
for a GPU are left out: they follow torch.
"""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OURS = {"nas-mobile", "pip", "setuptools", "wheel"}
GPU = ("nvidia-", "cuda-", "triton")


def line(package: Distribution) -> str:
    name = package.metadata["Name"]
    allowed = SpecifierSet(package.metadata.get("Requires-Python") or "")
    oldest = next(python for python in PYTHONS if f"{python}.99" in allowed)
    marker = f"; python_version >= '{oldest}'" if oldest != PYTHONS[0] else ""
    return f"{name}=={package.version.split('+')[0]}{marker}"


def main() -> None:
    print("# The one set of versions that is tested (Python 3.11, Linux, CPU). Made by `make pin`.")
    names = {package.metadata["Name"]: package for package in distributions()}
    for name in sorted(names, key=str.lower):
        if name.lower() not in OURS and not name.lower().startswith(GPU):
            print(line(names[name]))


if __name__ == "__main__":
    main()
