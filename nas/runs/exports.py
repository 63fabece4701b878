"""The folder of exported files, and export.yaml, which records each file and its origin.

`nas export` writes it; `nas check` and `nas report` read it. A file is made under another name,
compared with the network, renamed, and then recorded. A file that export.yaml does not list with
its checksum is incomplete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.files import YamlFile, beside, remove, tree_sha256, write_yaml

if TYPE_CHECKING:
    from nas.runs.resolve import Source

FORMAT = "nas-export-1"
FILE = "export.yaml"


class Record:
    """The content of export.yaml in a folder, written anew with every change.

    Attributes:
        targets: the recorded entry of each target.
        classes: the recorded names of the classes; empty where there are none.

    Raises:
        InputError: when the file cannot be read or has another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.targets: dict[str, dict[str, Any]] = {}
        self.classes: tuple[str, ...] = ()
        self._network: tuple[Any, ...] | None = None
        if self.path.exists():
            file = YamlFile(self.path)
            if file.data.get("format") != FORMAT or not isinstance(file.data.get("targets"), dict):
                raise file.error(
                    ["format"],
                    f"is {file.data.get('format')!r} (expected '{FORMAT}' and targets). Fix: move"
                    " this file away, then export again",
                )
            # A damaged entry counts as none: its file is made again.
            self.targets = {
                name: entry
                for name, entry in file.data["targets"].items()
                if isinstance(entry, dict)
            }
            for name, entry in self.targets.items():
                kept = str(entry.get("file", ""))
                # Files are hashed, moved and removed by this name.
                if kept != Path(kept).name or kept == "..":
                    raise file.error(
                        ["targets", name, "file"],
                        f"is {kept!r}, expected the name of a file in this folder",
                    )
            classes = file.data.get("classes")
            self.classes = tuple(map(str, classes)) if isinstance(classes, list) else ()
            self._network = _network(file.data)

    def whole(self, name: str, made: str) -> dict[str, Any] | None:
        """Return the entry of a target, or None where it must be exported again.

        That is the case when it was made from something else, or its file is missing or changed.

        Args:
            name: the target.
            made: fingerprint of its inputs.
        """
        entry = self.targets.get(name)
        if entry is None or entry.get("made") != made or not _is_whole(entry):
            return None
        path = self.folder / str(entry.get("file"))
        return entry if path.exists() and tree_sha256(path) == entry.get("sha256") else None

    def forget_others(self, about: dict[str, Any]) -> dict[str, str]:
        """Drop entries and class names that are of another network, or of other weights.

        What is recorded of the network holds for all entries. The files stay.

        Args:
            about: the network of the entries to come, as `put` takes it.

        Returns:
            The file names of the dropped entries, by target.
        """
        if self._network in (None, _network(about)):
            return {}
        dropped = {name: str(entry.get("file")) for name, entry in self.targets.items()}
        self.targets = {}
        self.classes = ()
        return dropped

    def put(self, name: str, entry: dict[str, Any], about: dict[str, Any]) -> None:
        """Record the entry of a target; `about` is the rest of the file."""
        self.targets[name] = entry
        self._write(about)

    def drop(self, name: str, about: dict[str, Any]) -> None:
        """Remove the entry of a target before its file is replaced.

        A kill in between then leaves no old checksum beside a new file.
        """
        if self.targets.pop(name, None) is not None:
            self._write(about)

    def _write(self, about: dict[str, Any]) -> None:
        write_yaml(self.path, {"format": FORMAT, **about, "targets": self.targets})


def facts_of(source: Source) -> dict[str, Any]:
    """Return the network and its weights, as export.yaml has them."""
    file = source.weights
    return {
        "architecture": source.architecture.name,
        "resolution": list(source.architecture.resolution),
        "weights": {
            "provenance": source.provenance,
            **({"file": str(file), "sha256": tree_sha256(file)} if file else {}),
        },
    }


def _network(about: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a network and its weights from others, of the content of export.yaml."""
    weights = about.get("weights")
    known = weights if isinstance(weights, dict) else {}
    return (
        about.get("architecture"),
        about.get("resolution"),
        known.get("provenance"),
        known.get("sha256"),
    )


def _is_whole(entry: dict[str, Any]) -> bool:
    """Return whether a recorded entry has the types of one; with others it is made again."""
    differences = entry.get("differences", {})
    accuracy = entry.get("accuracy", {"before": 0, "after": 0, "images": 0})
    if not isinstance(differences, dict) or not isinstance(accuracy, dict):
        return False
    numbers = [entry.get("bytes", 0), entry.get("seconds", 0)]
    numbers += [accuracy.get(key) for key in ("before", "after", "images")]
    for apart in differences.values():
        if not isinstance(apart, dict) or "max_abs" not in apart:
            return False
        numbers += [apart.get("top1_agreement"), apart.get("images"), apart["max_abs"] or 0]
    return isinstance(entry.get("note", ""), str) and all(
        type(number) in (int, float) for number in numbers
    )


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield a path in a hidden folder beside `path`, and move it to `path` at the end of the block.

    The yielded path has the same name. A file or a folder may be written there.

    Raises:
        NasError: when nothing can be written there.
    """
    with beside(path) as temporary:
        yield temporary
        _open(temporary, path.parent)
        # A rename cannot replace a folder, as a Core ML package is, so remove the old one first.
        remove(path)
        temporary.rename(path)


def _open(path: Path, like: Path) -> None:
    """Give a file, or a folder's files, the read and write modes of the folder `like`.

    Some writers make files that only their owner can read.
    """
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        file.chmod(like.stat().st_mode & 0o666)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return (
        path.stat().st_size
        if path.is_file()
        else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    )
