"""Version of nas and of the packages that a result was made with, for its provenance."""

from __future__ import annotations

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of nas, Python and the platform, and of each installed package."""
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
