"""Passwords in addresses: read from the environment, and masked where they are recorded or printed.

`nas.options` and `nas.option_values` mask the values of options in errors and recorded commands,
`nas.search.engines.optuna.storage` those of databases, `nas.__main__` every error line.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable

MASK = "***"
"""Stands for a password."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REST = r"(?:/[^?#@]*)?(?:\?[\w.-]+=.*)?"
_REGULAR = re.compile(rf"([^:/?#@]+://[^:/?#@]*:)([^/?#@]+)(@[^/?#@]*{_REST})", re.DOTALL)
"""An address as RFC 3986 has it: scheme, user, password, host, path without "@", query."""
_OPEN = re.compile(
    rf"[^:/?#@]+://(?:[^:/?#@]*@)?(?:\[[^]]*\]|[^:/?#@]*)(?::\d+)?{_REST}", re.DOTALL
)
"""The same without a password."""
_IRREGULAR = re.compile(
    r"((?:[^:/?#@]+://[^:]*|(?![^:/?#@]+://)(?:[^:/]*//)?[^:/]*):)(.*)(@)", re.DOTALL
)
"""Other texts with a colon before an "@", such as a password with an unescaped "@" or "/".

A path with a colon and an "@" in a file's name is not such a text. The match is greedy: it masks up
to the last "@", which may hide a part of the host as well.
"""
_NO_HOST = re.compile(r"([^:/?#@]+://[^:/?#@[]*:)(?!\d*(?:[/?#]|$))([^/?#@]*)([^@]*)", re.DOTALL)
"""An address with a word in place of the port: the host was forgotten behind a password."""
_NAME = (
    r"[\w.-]*(?:pass(?!file)|pwd|secret|token|credential|(?:api|access|auth)[_-]?key)[\w.-]*"
    r"|(?<![\w.-])pw"
)
_IN_QUERY = re.compile(rf"((?:{_NAME})=)([^&]*)", re.IGNORECASE)
_IN_WORDS = re.compile(
    rf"((?:{_NAME})\s*=\s*)(\*\*\*|'(?:[^'\\]|\\.)*'|[^&;\s'\"]+)", re.IGNORECASE
)
_ADDRESS_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def masked(value: str) -> str:
    """Return an address with its passwords masked; other texts come back as they are.

    A password stands before the host (`scheme://user:PASSWORD@host`), in the query
    (`?password=PASSWORD`) or in a list of words (`host=h password=PASSWORD`). `${NAME}` in its
    place is not secret and stays.
    """
    around = _REGULAR.fullmatch(value) or _NO_HOST.fullmatch(value)
    if around is None and not _OPEN.fullmatch(value):
        around = _IRREGULAR.match(value)
    if around is not None:
        value = around[1] + _mask(around[2]) + around[3] + value[around.end() :]
    # A password in a query may have spaces, in words it ends at one.
    pattern = _IN_QUERY if "://" in value else _IN_WORDS
    return pattern.sub(lambda found: found[1] + _mask(found[2]), value)


def masked_text(text: str) -> str:
    """Return a sentence with the passwords of all addresses in it masked."""
    text = _ADDRESS_IN_TEXT.sub(lambda found: masked(found[0]), text)
    return _IN_WORDS.sub(lambda found: found[1] + _mask(found[2]), text)


def masked_command(line: str) -> str:
    """Return a command line, as a shell reads it, with the passwords of all its words masked."""
    try:
        words = shlex.split(line)
    except ValueError:
        # Not a command line after all, for example with a single quotation mark.
        return masked_text(line)
    hidden = [_masked_word(word) for word in words]
    return line if hidden == words else shlex.join(hidden)


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a text of another program without these secrets, the longest ones first."""
    for secret in sorted({each for each in secrets if each}, key=len, reverse=True):
        # A short one is part of many words, and is masked only as a whole word.
        edge = r"\b" if len(secret) < 4 else ""
        text = re.sub(f"{edge}{re.escape(secret)}{edge}", MASK, text)
    return text


def expanded(text: str) -> str:
    """Return a text with the values of the environment's variables in place of `${NAME}`.

    Raises:
        ValueError: naming the variable that is not set.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set. Fix: export {name}")
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def _masked_word(word: str) -> str:
    """Return a word of a command line masked, also one that joins option and value by `=`."""
    option, equals, value = word.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={masked(value)}"
    return masked(word)


def _mask(secret: str) -> str:
    """Return the mask, or the secret itself where it is empty or only names variables."""
    return MASK if _VARIABLE.sub("", secret) else secret
