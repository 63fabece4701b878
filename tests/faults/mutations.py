"""Damaged copies of a file: what a disk, an editor, a spreadsheet or a stranger makes of it.

`mutations` yields them for the bytes of a file by its kind. `fault_files.py` gives them to commands.
"""

from __future__ import annotations

import codecs
import copy
import csv
import io
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ESCAPE = "a\x1b[31mb\x07\x9b"
"""A name that would colour a terminal and ring its bell."""
LONG = "9" * 5_000


@dataclass(frozen=True)
class Mutation:
    """One damaged copy.

    Attributes:
        kind: of damage, for counting.
        name: what was done where.
        apply: does it to the file at a path.
        wrong: whether the copy cannot be right, so that a command must refuse it.
    """

    kind: str
    name: str
    apply: Callable[[Path], object]
    wrong: bool = False


def bytes_of(kind: str, name: str, content: bytes, wrong: bool = False) -> Mutation:
    """Return the mutation that puts this content into the file."""
    return Mutation(kind, name, lambda path: path.write_bytes(content), wrong)


VALUES: dict[str, Any] = {
    "null": None,
    "list": [],
    "dict": {},
    "empty": "",
    "word": "x",
    "escape": ESCAPE,
    "formula": "=1+1",
    "up": "../../../../escaped",
    "absolute": "/escaped/absolute",
    "minus": -1,
    "zero": 0,
    "huge": 10**30,
    "digits": 10**400,
    "large": 1e308,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "true": True,
    "items": [1, "x", None],
    "keys": {"a": 1},
    "long": LONG,
    "nul": "a\0b",
    "surrogate": "\ud800",
}
"""Values that replace one of a YAML or JSON file, by name."""
CELLS = (
    *("", "nan", "inf", "-inf", "-1", "0", "1e400", "1e308", "x", "=1+1", "@SUM(A1)"),
    *(ESCAPE, LONG, " 1", "1_000", "\uff11\uff12", "0x10", "true", "../../escaped", "1,5", '"'),
)
"""Values that replace one of a CSV file."""


def mutations(content: bytes, kind: str, rng: random.Random, other: bytes) -> list[Mutation]:
    """Return mutations of a file.

    Args:
        content: of the file.
        kind: yaml, json, lines (JSON lines), csv, text or binary.
        other: content of a file of another format.
    """
    every = [*_places(), *_contents(content, kind, rng, other)]
    if kind == "yaml":
        every += _yaml(content)
    elif kind == "json":
        every += [
            bytes_of(each, name, text.encode(errors="surrogatepass"))
            for each, name, text in _values(json.loads(content), _json_text)
        ]
        every += [
            bytes_of("bomb", "json nested", b"[" * 100_000),
            bytes_of("bomb", "json digits", b'{"format": ' + b"9" * 10_000 + b"}"),
        ]
    elif kind == "lines":
        every += _lines(content, rng)
    elif kind == "csv":
        every += _csv(content, rng)
    return every


def _places() -> Iterator[Mutation]:
    """Yield mutations that put something other than a file in its place."""

    def replaced(make: Callable[[Path], object]) -> Callable[[Path], object]:
        def apply(path: Path) -> None:
            path.unlink()
            make(path)

        return apply

    yield Mutation("place", "directory", replaced(lambda path: path.mkdir()))
    yield Mutation("place", "dangling link", replaced(lambda path: path.symlink_to("nowhere")))
    yield Mutation("place", "link to itself", replaced(lambda path: path.symlink_to(path.name)))
    yield Mutation("place", "pipe", replaced(lambda path: os.mkfifo(path)))
    yield Mutation("place", "device", replaced(lambda path: path.symlink_to("/dev/zero")))
    yield Mutation("place", "removed", replaced(lambda path: None))

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 40)

    yield Mutation("place", "sparse terabyte", sparse, wrong=True)


def _contents(content: bytes, kind: str, rng: random.Random, other: bytes) -> Iterator[Mutation]:
    """Yield mutations of the bytes, for files of all kinds."""
    size = len(content)
    yield bytes_of("empty", "empty", b"")
    yield bytes_of("empty", "line feed", b"\n")
    for part in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield bytes_of("cut", f"cut at {part}", content[: int(size * part)])
    yield bytes_of("cut", "last byte cut", content[:-1])
    yield bytes_of("swap", "of another format", other)
    for name, text in (
        ("list", b"[]"),
        ("null", b"null"),
        ("number", b"3"),
        ("web page", b"<html>"),
    ):
        yield bytes_of("swap", name, text)
    yield bytes_of("swap", "zeros", bytes(size))
    yield bytes_of("swap", "noise", rng.randbytes(min(size, 4096)))
    places = range(24 if kind == "binary" else 8)
    for number in places:
        # The first bytes of a binary file are its structure.
        at = rng.randrange(min(size, 400) if kind == "binary" and number % 2 else size)
        flipped = bytes((*content[:at], content[at] ^ (1 << rng.randrange(8)), *content[at + 1 :]))
        yield bytes_of("flip", f"bit of byte {at}", flipped)
    if kind == "binary":
        return
    middle = size // 2
    yield bytes_of("encoding", "byte-order mark", codecs.BOM_UTF8 + content)
    text = content.decode()
    yield bytes_of("encoding", "UTF-16", text.encode("utf-16"))
    yield bytes_of("encoding", "UTF-16 without mark", text.encode("utf-16-le"))
    yield bytes_of("encoding", "latin", content[:middle] + b"\xe9" + content[middle:])
    yield bytes_of("encoding", "CRLF", content.replace(b"\n", b"\r\n"))
    yield bytes_of("encoding", "CR", content.replace(b"\n", b"\r"))
    yield bytes_of("control", "NUL", content[:middle] + b"\0" + content[middle:])
    yield bytes_of("control", "NUL at the end", content + b"\0\0\0")
    yield bytes_of("control", "escape", content[:middle] + ESCAPE.encode() + content[middle:])
    yield bytes_of("long", "line of 200 kB", content + b"x" * 200_000)
    yield bytes_of("double", "twice", content + content)


def _yaml(content: bytes) -> Iterator[Mutation]:
    data = yaml.safe_load(content)
    for kind, name, text in _values(data, _yaml_text):
        yield bytes_of(kind, name, text.encode(errors="surrogatepass"))
    first, *_ = content.splitlines()
    key = first.partition(b":")[0]
    text = content
    yield bytes_of("key", "duplicate key", text + first + b"\n", wrong=True)
    yield bytes_of("key", "list as key", text + b"? [1, 2]\n: 3\n", wrong=True)
    yield bytes_of("key", "null as key", text + b"null: 3\n")
    yield bytes_of("key", "number as key", text + b"3: 3\n")
    yield bytes_of("key", "merge", text + b"<<: {zzz: 1}\n")
    yield bytes_of(
        "tag", "python tag", text + b"zz: !!python/object/apply:os.system ['true']\n", True
    )
    yield bytes_of("tag", "binary tag", text + b"zz: !!binary aGFsbG8=\n")
    yield bytes_of("tag", "timestamp", text + b"zz: 2001-99-99\n")
    yield bytes_of("tag", "set", text + b"zz: !!set {a, b}\n")
    yield bytes_of("tag", "wrong int", text + b"zz: !!int x\n")
    yield bytes_of("tag", "wrong float", text + b"zz: !!float x\n")
    yield bytes_of("tag", "second document", text + b"---\na: 1\n", True)
    yield bytes_of("tag", "directive", b"%YAML 9.9\n---\n" + text)
    yield bytes_of("tag", "tab", text.replace(b": ", b":\t"))
    yield bytes_of("bomb", "nested lists", text + b"zz: " + b"[" * 5_000 + b"]" * 5_000, True)
    yield bytes_of("bomb", "nested blocks", text + b"zz:\n" + b"- " * 5_000 + b"1\n", True)
    aliases = b"".join(
        b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 10)
    )
    yield bytes_of("bomb", "aliases", b"a0: &a0 [x]\n" + aliases + text, True)
    yield bytes_of("bomb", "alias to itself", text + b"zz: &z [*z]\n", True)
    yield bytes_of("bomb", "huge number", text + b"zz: " + b"9" * 100_000 + b"\n", True)
    yield bytes_of("bomb", "base 60", text + b"zz: " + b"9:" * 5_000 + b"9\n")
    yield bytes_of("bomb", "many keys", text + b"".join(b"k%d: 1\n" % i for i in range(20_000)))
    yield bytes_of("key", "key of escapes", text + b'"\\e[31mx": 1\n')
    yield bytes_of("key", "long key", text + b"? " + b"k" * 5_000 + b"\n: 1\n")
    yield bytes_of("key", "first key alone", key + b":\n")


def _yaml_text(data: Any) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=False)


def _json_text(data: Any) -> str:
    return json.dumps(data)


def _values(data: Any, text: Callable[[Any], str]) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, name, text) with every value replaced, every key removed, and one added."""
    for path in _paths(data):
        shown = ".".join(map(str, path))
        for name, value in VALUES.items():
            try:
                yield "value", f"{shown} = {name}", text(_with(data, path, value))
            except (UnicodeError, ValueError):
                continue
        yield "missing", f"{shown} missing", text(_with(data, path, None, remove=True))
        if isinstance(_at(data, path), dict):
            yield "unknown", f"{shown}.zzz", text(_with(data, (*path, "zzz"), 1))
    if isinstance(data, dict):
        yield "unknown", "zzz", text({**data, "zzz": 1})


def _paths(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values, of lists only the first and the last item's."""
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = [(i, data[i]) for i in sorted({0, len(data) - 1})] if data else []
    else:
        return
    for key, value in items:
        yield (*above, key)
        yield from _paths(value, (*above, key))


def _at(data: Any, path: Sequence[Any]) -> Any:
    for key in path:
        data = data[key]
    return data


def _with(data: Any, path: Sequence[Any], value: Any, remove: bool = False) -> Any:
    """Return a copy of the data with another value at a path, or without it."""
    data = copy.deepcopy(data)
    around = _at(data, path[:-1])
    if remove:
        del around[path[-1]]
    else:
        around[path[-1]] = value
    return data


def _lines(content: bytes, rng: random.Random) -> Iterator[Mutation]:
    """Yield mutations of JSON lines: of the values of the first and of a further line."""
    lines = content.decode().splitlines()
    for number in sorted({0, min(1, len(lines) - 1), len(lines) - 1}):
        for kind, name, text in _values(json.loads(lines[number]), _json_text):
            changed = [*lines[:number], text, *lines[number + 1 :]]
            joined = "\n".join(changed) + "\n"
            yield bytes_of(
                kind, f"line {number + 1}: {name}", joined.encode(errors="surrogatepass")
            )
    shuffled = rng.sample(lines, len(lines))
    yield bytes_of("order", "lines shuffled", ("\n".join(shuffled) + "\n").encode())
    yield bytes_of("cut", "torn last line", ("\n".join(lines) + '\n{"a": ').encode())
    yield bytes_of("double", "line twice", ("\n".join([*lines, lines[-1]]) + "\n").encode())
    yield bytes_of("bomb", "line nested", content + b"[" * 100_000 + b"\n")
    yield bytes_of("empty", "empty line", content + b"\n\n")


def _csv(content: bytes, rng: random.Random) -> Iterator[Mutation]:
    rows = list(csv.reader(io.StringIO(content.decode())))
    header, body = rows[0], rows[1:]

    def text(changed: Sequence[Sequence[str]]) -> bytes:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(changed)
        return out.getvalue().encode()

    for column, title in enumerate(header):
        for number in sorted({0, len(body) - 1}) if body else ():
            for cell in CELLS:
                row = [*body[number][:column], cell, *body[number][column + 1 :]]
                changed = text([header, *body[:number], row, *body[number + 1 :]])
                yield bytes_of("cell", f"{title}[{number}] = {cell[:12]!r}", changed)
        without = [[*row[:column], *row[column + 1 :]] for row in rows]
        yield bytes_of("missing", f"column {title} missing", text(without))
        renamed = [[*header[:column], "zzz", *header[column + 1 :]], *body]
        yield bytes_of("unknown", f"column {title} renamed", text(renamed))
        twice = [[*row, row[column]] if column < len(row) else row for row in rows]
        yield bytes_of("double", f"column {title} twice", text(twice))
    if body:
        yield bytes_of("double", "row twice", text([*rows, body[-1]]))
        yield bytes_of("order", "rows reversed", text([header, *reversed(body)]))
        yield bytes_of("cell", "row too long", text([*rows, [*body[-1], "1"]]))
        yield bytes_of("cell", "row too short", text([*rows, body[-1][:-1]]))
    yield bytes_of("empty", "header alone", text([header]))
    yield bytes_of("empty", "without header", text(body))
    yield bytes_of("cell", "stray quote", content + b'"')
    yield bytes_of("cell", "semicolons", content.replace(b",", b";"))
    yield bytes_of("cell", "tabs", content.replace(b",", b"\t"))
    yield bytes_of("bomb", "million columns", content + b"," * 1_000_000 + b"\n")
    wide = ",".join([*header, *(f"c{i}" for i in range(100_000))])
    yield bytes_of("bomb", "wide header", wide.encode() + b"\n" + content.partition(b"\n")[2])
    yield bytes_of("bomb", "field of 200 kB", content + b'"' + b"x" * 200_000 + b'"\n')
