"""Errors that a user can fix, and checks of arguments that raise them. Every package uses them.

Each message is one line that names the file, the key and the remedy.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

MOST_LETTERS = 1_200
"""Maximum length of a message. The longest one with only short names in it has 1,000."""

SHOWN_NAMES = 16
"""Maximum number of known names in a message on an unknown one: all spaces or devices, not all members."""


class NasError(Exception):
    """The work failed (exit code 1). The message is one line; no traceback is shown.

    A message that quotes too much of a file is cut in its middle: what is wrong stands at its
    beginning, and the remedy at its end.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        half = MOST_LETTERS // 2
        cut = len(message) > MOST_LETTERS
        super().__init__(f"{message[:half]} … {message[-half:]}" if cut else message)


class InputError(NasError, ValueError):
    """The input was wrong (exit code 2): a file, a key, a name or an option.

    Attributes:
        reason: the message without its location, for callers that add one themselves. It is the
            whole message where that names no location.
    """

    exit_code = 2

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class Elsewhere(NasError):
    """Another process of the same launch failed and says why; this one ends without a word."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this launch failed")
        self.exit_code = exit_code


def check_type(what: str, value: object, kind: type, load: str = "") -> None:
    """Raise InputError unless `value` is an instance of `kind`.

    Args:
        what: the argument's name, for the message.
        load: the function that loads one from a name or a path, for the remedy.
    """
    if isinstance(value, kind):
        return
    shown = repr(value)
    shown = shown if len(shown) <= 80 else type(value).__name__
    fix = f". Fix: {load}({value!r})" if load and isinstance(value, (str, os.PathLike)) else ""
    raise InputError(f"{what}: expected {_article(kind.__name__)} (got {shown}){fix}")


def _article(noun: str) -> str:
    if noun.endswith("s"):
        return noun
    return f"{'an' if noun[0] in 'AEIOU' else 'a'} {noun}"


def check_name(what: str, value: object, names: str) -> None:
    """Raise InputError unless `value` is a string or a path; `names` says what it may name."""
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(
            f"{what}: expected {names} (got {type(value).__name__} {str(value)[:40]!r})"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name: `, did you mean 'x'? known: ...`.

    Of many known names the first ones stand for all.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f", did you mean '{close[0]}'?" if close else ";"
    shown = known if len(known) <= SHOWN_NAMES else known[: SHOWN_NAMES - 1]
    more = len(known) - len(shown)
    return f"{hint} known: {', '.join(shown) or 'none'}{f' and {more} others' if more else ''}"
