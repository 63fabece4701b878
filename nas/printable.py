"""Text of files and names as a screen or a page may show it."""

from __future__ import annotations

import unicodedata

_HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}
"""Unicode categories that steer a terminal, turn the direction of a line, or break it."""


def printable(text: str) -> str:
    r"""Return one line of text, each control character as an escape like \x1b.

    Names come from files and from other programs; an escape sequence in one would move the cursor
    or change colours.
    """
    if text.isprintable():
        return text
    return "".join(
        _escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text
    )


def printable_lines(text: str) -> str:
    """Return text of several lines in the same way; its line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii") if ord(letter) != 0xAD else letter
