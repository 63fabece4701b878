"""File access for all packages: YAML with line numbers in errors, atomic writes, SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError, SafeConstructor

from nas.errors import InputError, NasError, check_name
from nas.temporary import part_beside

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` at the end of the block.

    A full disk, an error or a kill while writing leaves the old file unchanged.

    Raises:
        NasError: naming the file that could not be written.
    """
    check_name("path", path, "the path of a file")
    path = Path(path)
    with beside(path) as temporary:
        yield temporary
        # Sync before the rename: after a power cut the name would otherwise point at an empty file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # safetensors makes files that only their owner reads. Give them the mode of other new files.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path on the file system of `path`; what is not moved away is removed.

    Raises:
        NasError: naming `path`, where nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part_beside(path) as temporary:
            yield temporary
    except OSError as error:
        raise unwritable(path, error) from error
    except Exception as error:
        # safetensors raises an error of its own where the system refuses to write.
        if type(error).__name__ != "SafetensorError":
            raise
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> NasError:
    """Return the error of a file that could not be written, by the error of the system."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return NasError(f"{path}: could not be written ({reason}). An existing file is unchanged")


def file_name(name: str) -> str:
    """Return a name from a file or a user as the name of one file or folder.

    A name may have slashes, be "..", or be longer than a file system takes. Where anything had to
    change, a checksum keeps different names apart.
    """
    plain = re.sub(r"[^\w. -]+", "-", name).strip(".- ")
    plain = plain.encode(errors="ignore")[:100].decode(errors="ignore")
    return plain if plain == name else "-".join(filter(None, (plain, text_sha256(name)[:8])))


def remove(path: Path) -> None:
    """Delete a file, or a folder with its content; do nothing where neither exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's umask; the only way to read it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, as UTF-8.

    Raises:
        NasError: when it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def path_of(keys: Sequence[str | int]) -> str:
    """Return keys of a YAML file as people write them, for example stages[2].global."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


MOST_TEXT_BYTES = 1 << 28
"""Maximum size of a text file. The largest real ones, tables of other frameworks, have 50 MB."""


def read_text(path: str | Path, most: int = MOST_TEXT_BYTES) -> str:
    """Return the text of a UTF-8 file of at most `most` bytes, without a byte-order mark.

    Raises:
        InputError: when it cannot be read or is not UTF-8.
    """
    try:
        # Spreadsheets and Windows editors put a byte-order mark first, which would become part of
        # the first key or column. utf-8-sig drops it.
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: cannot be read: it is not UTF-8 text") from None


def read_bytes(path: str | Path, most: int = MOST_TEXT_BYTES) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        InputError: when it cannot be read, is larger, or is a pipe or a device, which may never end.
    """
    check_regular(path)
    try:
        size = os.path.getsize(path)
        content = b"" if size > most else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if size > most:
        raise InputError(
            f"{path}: is too large (got {size / 1e6:.0f} MB, expected at most {most / 1e6:.0f} MB)"
        )
    return content


def check_regular(path: str | Path) -> None:
    """Raise InputError for a pipe, a socket or a device, where opening or reading may never end."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return  # opening it says what is wrong
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(
            f"{path}: is not a file (got a pipe, a socket or a device). Fix: give a file"
        )


MOST_NUMBER = 1e30
"""Maximum size of a number in a CSV file."""
MOST_MS = 1e7
"""Maximum latency in ms, almost three hours; the largest of `--latency-ms` too."""


def number_in(where: str, column: str, text: str) -> float:
    """Return a finite number of a CSV file.

    Args:
        where: file and line, for the message.

    Raises:
        InputError: naming `where` and the column.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Sums and products of a few numbers within this bound are finite too.
    if not abs(value) <= MOST_NUMBER:
        reason = f"{column}: '{text[:40]}' is not a finite number"
        raise InputError(f"{where}: {reason}", reason=reason)
    return value


def dump_yaml(data: Any) -> str:
    """Return data as YAML: keys in their order, innermost lists and mappings on one line."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        width=110,
        allow_unicode=True,
    )


def write_yaml(path: str | Path, data: Any) -> None:
    """Write data as a YAML file, atomically."""
    write_text(path, dump_yaml(data))


MOST_BYTES = 1 << 26
"""Maximum size of a YAML file. A file of weights that is given by mistake is larger."""
MOST_LEVELS = 100
"""Maximum number of lists and mappings inside one another; a space has 6."""
MOST_ALIASED = 100_000
"""Maximum number of nodes that aliases may stand for, all together.

Aliases of aliases repeat a node exponentially often ("billion laughs").
"""
_MOST_INTEGER = 2**63
"""Whole numbers from here on would take part in arithmetic of any length."""


class _Constructor(SafeConstructor):
    """Makes plain data and no Python objects, as its base, and no huge whole numbers."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return the whole number of a node."""
        try:
            value: int = super().construct_yaml_int(node)
        except ValueError:  # Python reads up to 4,300 digits
            value = _MOST_INTEGER
        if abs(value) >= _MOST_INTEGER:
            raise ConstructorError(
                None, None, "the number is too large (expected below 2^63)", node.start_mark
            )
        return value


_Constructor.add_constructor(  # type: ignore[type-var]
    "tag:yaml.org,2002:int", _Constructor.construct_yaml_int
)


class YamlFile:
    """A YAML mapping with the line of every key, so that an error can point at it.

    Merge keys (`<<`) are read; a key of the mapping itself overrides a merged one.

    Raises:
        InputError: for malformed YAML, a file that is not a mapping, a duplicate key, or a file
            whose content is unreasonably large.
    """

    def __init__(self, path: str | Path, text: str | None = None) -> None:
        """Read the file at `path`, or `text` where the caller has read it already."""
        self.path = Path(path)
        text = bounded_text(self.path) if text is None else text
        try:
            _check_structure(text)
            # Two steps instead of yaml.load: nodes keep the line of every key. They also keep
            # duplicate keys, which a dict would silently drop.
            self._root = yaml.compose(text, Loader=_Loader)
            # Before the construction, which puts merged keys into the nodes.
            self._refuse_duplicates(self._root)
            data: Any = _Constructor().construct_document(self._root) if self._root else None
        except InputError:
            raise
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            reason = str(getattr(error, "problem", error)).splitlines()[0]
            raise InputError(f"{path}{line}: malformed YAML: {reason}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: malformed YAML: {error}") from None
        if data is None:
            raise InputError(f"{path}: the file is empty")
        if not isinstance(data, dict):
            raise InputError(f"{path}: is not a mapping of keys (got {type(data).__name__})")
        self.data: dict[str, Any] = data

    def line(self, keys: Sequence[str | int]) -> int:
        """Return the line of the value at this path of keys.

        Where the path does not exist, it is the line of its deepest part that does.
        """
        return self._at(keys)[1]

    def written(self, keys: Sequence[str | int]) -> str:
        """Return the text of the scalar at this path of keys, as it is in the file.

        YAML reads 010 as 8, off as false and 2026-01-31 as a date.
        """
        node, _ = self._at(keys)
        return str(node.value)

    def _at(self, keys: Sequence[str | int]) -> tuple[Any, int]:
        """Return the node and the line of the value at this path, or of the deepest part of it."""
        node = self._root
        line = 1
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                # Backwards: merged keys come first, and those of the mapping itself override them.
                pairs = reversed(node.value)
                entry = next(((k, v) for k, v in pairs if k.value == str(key)), None)
                if entry is None:
                    break
                line = entry[0].start_mark.line + 1
                node = entry[1]
            elif (
                isinstance(node, yaml.SequenceNode)
                and isinstance(key, int)
                and key < len(node.value)
            ):
                node = node.value[key]
                line = node.start_mark.line + 1
            else:
                break
        return node, line

    def error(self, keys: Sequence[str | int], reason: str) -> InputError:
        """Return an error that names the file, the line, the key and the reason."""
        where = path_of(keys)
        return InputError(f"{self.path}:{self.line(keys)}: {where + ': ' if where else ''}{reason}")

    def parse(self, parse: Callable[[Any], Any], keys: Sequence[str | int], value: Any) -> Any:
        """Return `parse(value)`; a ValueError becomes an error at this path of keys."""
        try:
            return parse(value)
        except InputError:
            raise
        except (ValueError, TypeError) as error:
            raise self.error(keys, str(error)) from None

    def _refuse_duplicates(self, node: Any, visited: set[int] | None = None) -> None:
        """Raise InputError for the first key that occurs twice in a mapping, at any depth."""
        visited = set() if visited is None else visited
        # An alias is the same node as its anchor, and may even lie inside it: visit each once.
        if id(node) in visited:
            return
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                # Lists as keys are refused by the construction.
                if isinstance(key, yaml.ScalarNode) and key.value in lines:
                    raise InputError(
                        f"{self.path}:{line}: {key.value}: duplicates the key of line"
                        f" {lines[key.value]}. Fix: remove one of them"
                    )
                lines[str(key.value)] = line
                self._refuse_duplicates(value, visited)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_duplicates(item, visited)


def bounded_text(path: Path) -> str:
    """Return the text of a YAML file; raise InputError where it is too large to be one."""
    try:
        size = path.stat().st_size
    except OSError:
        size = 0  # read_text names what is wrong
    if size > MOST_BYTES:
        raise InputError(
            f"{path}: is too large for a YAML file (got {size / 1e6:.0f} MB, expected at most"
            f" {MOST_BYTES / 1e6:.0f} MB)"
        )
    return read_text(path)


def _check_structure(text: str) -> None:
    """Raise a YAMLError where a text is nested too deeply, or where aliases repeat too much.

    The parser's events are enough for that: nothing is built, and the first excess ends it.
    """
    sizes: dict[str, tuple[int, int]] = {}  # nodes and levels below an anchor
    # Anchor, nodes and levels so far of each list or mapping that is open, from the outside in.
    around: list[tuple[str | None, int, int]] = [(None, 0, 0)]
    aliased = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
    for event in events:
        nodes = 1
        levels = 0
        anchor = getattr(event, "anchor", None)
        mark: Any = event.start_mark
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((anchor, 1, 1))
            if len(around) > MOST_LEVELS:
                raise ComposerError(None, None, f"is nested more than {MOST_LEVELS} deep", mark)
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == each for each, _, _ in around):
                raise ComposerError(None, None, f"*{anchor} contains itself", mark)
            nodes, levels = sizes.get(str(anchor), (1, 0))
            aliased += nodes
            if aliased > MOST_ALIASED or len(around) + levels > MOST_LEVELS:
                raise ComposerError(None, None, f"*{anchor} repeats too many nodes", mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes, levels = around.pop()
            if anchor is not None:
                sizes[anchor] = nodes, levels
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        outer, before, deepest = around[-1]
        around[-1] = outer, before + nodes, max(deepest, levels + 1)


_BLOCK = 1 << 22
"""Bytes per read, 4 MiB: a file of weights may be larger than free memory."""


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_left_by_finder(name: str) -> bool:
    """Return whether a file's name is one that macOS gives to its own notes on a folder.

    Finder writes `.DS_Store`, and `._NAME` beside NAME on file systems without its attributes.
    """
    return name == ".DS_Store" or name.startswith("._")


def tree_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their relative names.

    Files that macOS leaves in folders it has looked at do not count.
    """
    if path.is_file():
        return file_sha256(path)
    # Sorted, as the order in which a folder lists its files depends on the file system.
    files = (
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not is_left_by_finder(file.name)
    )
    return lines_sha256(
        f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n" for file in files
    )


def lines_sha256(lines: Iterable[str]) -> str:
    """Return the SHA-256 of the concatenation of texts."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def data_sha256(data: Any) -> str:
    """Return the SHA-256 of plain data; the order of a mapping's keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))
