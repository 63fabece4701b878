"""Text from files and other programs, made safe for a terminal or a page."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}
"""Unicode categories that control a terminal, change the direction of a line, or break it."""


def printable(text: str) -> str:
    r"""Return one line of text with each control character as an escape like \x1b.

    Names come from files and from other programs. An escape sequence in one would move the cursor
    or change colours.
    """
    if text.isprintable():
        return text
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text
    )


def printable_lines(text: str) -> str:
    """Return text of several lines with control characters escaped; its line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(letter: str) -> str:
    """Return the escape of a control character; a soft hyphen (U+00AD) is harmless and stays."""
    return letter.encode("unicode_escape").decode("ascii") if ord(letter) != 0xAD else letter
