"""What RUN on a command line stands for: a run folder, an architecture's YAML file or a published
member's name.

`find_source` finds the best network of it (`check`, `export`), `find_subject` the one that a search
found (`finetune`). Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.errors import InputError
from nas.files import YamlFile
from nas.runs.schema import (
    ARCHITECTURE_FILE,
    EXPORT_FOLDER,
    FINETUNE_FILE,
    FINETUNE_FOLDER,
    RUN_FILE,
    RUN_FORMAT,
    WEIGHTS_FILE,
)
from nas.space import Architecture, find_architecture, load_architecture

HOMES = (FINETUNE_FOLDER, "")
"""Where in a run folder weights are looked for, the best ones first."""


@dataclass(frozen=True)
class Source:
    """A network to export.

    Attributes:
        run: what was asked for, as the user wrote it.
        folder: where the exported files go.
        weights: the file of its weights; None where they are random.
        provenance: of the weights: fine-tuned, inherited, given or random.
        classes: their names, in the order of the logits; numbers where nobody said.
        held_out, seed: a share or a number of images; which of its data it never saw.
    """

    run: str
    folder: Path
    architecture: Architecture
    weights: Path | None
    provenance: str
    classes: tuple[str, ...]
    held_out: float | int = 0.1
    seed: int = 0

    def named(self, classes: Sequence[str]) -> Source:
        """Return the same with these names of classes, where it has none of its own.

        Raises:
            InputError: when their number is not that of the network.
        """
        if len(classes) != self.architecture.classes:
            raise InputError(
                f"the data has {len(classes)} classes, the network {self.architecture.classes}:"
                " give the data that it was trained on, or `nas finetune` it on this data"
            )
        return self if self.are_named else replace(self, classes=tuple(classes))

    @property
    def run_folder(self) -> Path | None:
        """Return the run folder, or None for an architecture that is in none."""
        return path if (path := Path(self.run)).is_dir() else None

    @property
    def are_named(self) -> bool:
        """Return whether the classes have names and not numbers alone."""
        return self.classes != _numbers(len(self.classes))


def find_source(run: str, weights: Path | None = None, out: Path | None = None) -> Source:
    """Return the network of a run folder (fine-tuned where it is, else as it was found), of an
    architecture's YAML file, or the published member of this name.

    Args:
        run: the folder, the file or the name.
        weights: a file of weights to take instead of the run's own.
        out: where to export to; RUN/export by default, FILE-export beside an architecture's file,
            or NAME-export.

    Raises:
        InputError: when there is no such run or file, or a file in it is wrong.
    """
    path = Path(run)
    if weights is not None and not weights.is_file():
        raise InputError(f"--weights {weights}: there is no such file")
    folder = out or (
        path / EXPORT_FOLDER if path.is_dir() else path.with_name(f"{path.stem}-export")
    )
    if path.is_dir():
        home = next((path / name for name in HOMES if (path / name / WEIGHTS_FILE).is_file()), None)
        architecture = load_architecture(_architecture_file(path, home or path))
        own = home and home / WEIGHTS_FILE
        provenance = "random" if home is None else "inherited"
        source = _described(
            Source(run, folder, architecture, own, provenance, _numbers(architecture.classes)),
            home or path,
        )
    else:
        architecture = find_architecture(run)
        source = Source(run, folder, architecture, None, "random", _numbers(architecture.classes))
    if weights is None:
        return source
    given = replace(
        source, weights=weights, provenance="given", classes=_numbers(architecture.classes)
    )
    return _described(given, weights.parent)


def _architecture_file(run: Path, home: Path) -> Path:
    """Return a fine-tuned network may have got another head, which its own file says."""
    own = home / ARCHITECTURE_FILE
    if own.is_file() or (run / ARCHITECTURE_FILE).is_file():
        return own if own.is_file() else run / ARCHITECTURE_FILE
    raise InputError(f"{run}: no run here (there is no architecture.yaml); `nas search` makes one")


def _described(source: Source, home: Path) -> Source:
    """Return the same with what a fine-tuning's description says of its data, where there is one."""
    if not (home / FINETUNE_FILE).is_file():
        return source
    file = YamlFile(home / FINETUNE_FILE)
    data, recipe = (
        part if isinstance(part, dict) else {} for part in map(file.data.get, ("data", "recipe"))
    )
    classes = data.get("classes")
    count = source.architecture.classes
    if not isinstance(classes, list):
        return source
    if len(classes) != count:
        raise file.error(
            ["data", "classes"], f"{len(classes)} names for a network of {count} classes"
        )
    held_out = data.get("held_out", source.held_out)
    seed = recipe.get("seed", source.seed)
    provenance = "fine-tuned" if source.weights else source.provenance
    return replace(
        source,
        provenance=provenance,
        classes=tuple(map(str, classes)),
        held_out=held_out,
        seed=seed,
    )


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(index) for index in range(count))


@dataclass(frozen=True)
class Subject:
    """A network to fine-tune, the run folder that it was found in, if any, and its inherited
    weights, if any."""

    architecture: Architecture
    run: Path | None = None
    weights: Path | None = None

    def folder(self, from_scratch: bool) -> Path:
        """Return where the fine-tuning goes by default: into the run, or into a folder beside the
        runs."""
        name = f"{FINETUNE_FOLDER}-scratch" if from_scratch else FINETUNE_FOLDER
        return (
            self.run / name
            if self.run
            else Path("runs") / f"{name}-{self.architecture.name or 'architecture'}"
        )


def find_subject(name: str | Path) -> Subject:
    """Return what `name` stands for, as the search found it: a run folder, an architecture's file,
    or a member's name.

    Raises:
        InputError: when it is none of them, or its network answers with maps.
    """
    path = Path(name)
    subject = _found_by_search(path) if path.is_dir() else Subject(find_architecture(name))
    head = subject.architecture.head
    if head.layout == "pyramid":
        raise InputError(
            f"{name}: its head {head.kind} gives maps; `nas finetune` trains classifiers on"
            " labelled images"
        )
    return subject


def _found_by_search(folder: Path) -> Subject:
    if not (folder / RUN_FILE).is_file():
        raise InputError(
            f"{folder}: no finished run here (there is no {RUN_FILE}); `nas search` makes one"
        )
    file = YamlFile(folder / RUN_FILE)
    if file.data.get("format") != RUN_FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r}, expected '{RUN_FORMAT}'")
    weights = folder / WEIGHTS_FILE
    architecture = load_architecture(folder / ARCHITECTURE_FILE)
    return Subject(architecture, folder, weights if weights.is_file() else None)
