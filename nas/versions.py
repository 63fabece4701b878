"""Versions of what a result was made with, for its provenance."""

from __future__ import annotations

__version__ = "0.1.0"


def versions(*packages: str) -> dict[str, str]:
    """Return `nas`, Python, the platform, and the installed version of each package that is there."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {
        "nas": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
