"""Errors of the programs in a bundle, and failures of a single file."""

from __future__ import annotations


class BundleError(Exception):
    """A damaged bundle, or a machine that lacks what it needs. The message is one line."""


class NotWritten(BundleError):
    """A full disk, or a folder that cannot be written to."""


class CannotRun(Exception):
    """A file that cannot run here; it is recorded, and the others are measured."""


class Ended(Exception):
    """A process that was ended from outside. Nothing is recorded of its file."""
