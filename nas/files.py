"""File access for all packages: YAML with line numbers in errors, atomic writes, SHA-256."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from nas.errors import InputError, NasError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` at the end of the block.

    A full disk, an error or a kill while writing leaves the old file unchanged.

    Raises:
        NasError: naming the file that could not be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file is in the same folder, as a rename is atomic within one file system only.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # Sync before the rename: after a power cut the name would otherwise point at an empty file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read: set the mode of any other new file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise NasError(
            f"{path}: could not be written ({error.strerror or error}). An existing file is"
            " unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


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


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark.

    Raises:
        InputError: when it cannot be read or is not UTF-8.
    """
    try:
        # Spreadsheets and Windows editors put a byte-order mark first, which would become part of
        # the first key or column. utf-8-sig drops it.
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from None


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
    if not math.isfinite(value):
        reason = f"{column}: '{text}' is not a finite number"
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


class YamlFile:
    """A YAML mapping with the line of every key, so that an error can point at it.

    Raises:
        InputError: for malformed YAML, a file that is not a mapping, or a duplicate key.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        text = read_text(path)
        try:
            # Two steps instead of yaml.load: nodes keep the line of every key. They also keep
            # duplicate keys, which a dict would silently drop.
            self._root = yaml.compose(text, Loader=_Loader)
            # A SafeConstructor knows plain data and no Python objects.
            data: Any = SafeConstructor().construct_document(self._root) if self._root else None
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
        self._refuse_duplicates(self._root)

    def line(self, keys: Sequence[str | int]) -> int:
        """Return the line of the value at this path of keys.

        Where the path does not exist, it is the line of its deepest part that does.
        """
        node = self._root
        line = 1
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                entry = next(((k, v) for k, v in node.value if k.value == str(key)), None)
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
        return line

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
                if key.value in lines:
                    raise InputError(
                        f"{self.path}:{line}: {key.value}: duplicates the key of line"
                        f" {lines[key.value]}. Fix: remove one of them"
                    )
                lines[key.value] = line
                self._refuse_duplicates(value, visited)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._refuse_duplicates(item, visited)


_BLOCK = 1 << 22
"""Bytes per read, 4 MiB: a file of weights may be larger than free memory."""


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def tree_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their relative names."""
    if path.is_file():
        return file_sha256(path)
    # Sorted, as the order in which a folder lists its files depends on the file system.
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
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
    return hashlib.sha256(text.encode()).hexdigest()


def data_sha256(data: Any) -> str:
    """Return the SHA-256 of plain data; the order of a mapping's keys does not matter."""
    return text_sha256(json.dumps(data, sort_keys=True))
