"""Errors that a user can fix, and checks of arguments that raise them. Every package uses them.

Each message is one line that names the file, the key and the remedy.
"""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import SupportsFloat, SupportsIndex

MOST_LETTERS = 1_200
"""Maximum length of a message. The longest one with only short names in it has 1,000."""

SHOWN_NAMES = 16
"""Maximum number of known names in a message on an unknown one: all spaces or devices, not all members."""


_LONGEST_PART = 255
"""Maximum length of a file's name in bytes, on all usual file systems."""


_LARGEST_COUNT = 2**63 - 1


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
    named = load and isinstance(value, (str, os.PathLike))
    fix = f". Fix: {load}({value!r})" if named else ""
    raise InputError(f"{what}: expected {_article(kind.__name__)} (got {_shown(value)}){fix}")


def check_number(what: str, value: object) -> float:
    """Return a number of a Python call, of any numeric type; its range is checked elsewhere.

    Raises:
        InputError: for anything else, also for a text or a flag.
    """
    try:
        if isinstance(value, SupportsFloat) and not isinstance(value, bool):
            return float(value)
    # Arrays of several values have the method, too.
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{what} {_shown(value)}: expected a number")


def check_count(what: str, value: object, least: int = 0, most: int = _LARGEST_COUNT) -> int:
    """Return a whole number of a Python call within a range, of any integer type.

    Raises:
        InputError: for anything else, also for a fraction, a text or a flag.
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        try:
            number = operator.index(value)
        except TypeError:  # arrays have the method, too
            number = least - 1
        if least <= number <= most:
            return number
    limits = f"{least} or more" if most == _LARGEST_COUNT else f"{least} to {most}"
    raise InputError(f"{what} {_shown(value)}: expected {limits} (a whole number)")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 and "\n" not in shown else type(value).__name__


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
    # Looking for a longer one raises an error of the system instead of finding nothing.
    if any(len(part.encode(errors="surrogatepass")) > _LONGEST_PART for part in Path(value).parts):
        raise InputError(
            f"{what}: expected {names} (got {str(value)[:40]!r}…, whose name is longer than"
            f" {_LONGEST_PART} bytes)"
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
