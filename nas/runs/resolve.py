"""The network that RUN names on a command line.

RUN is a run folder, an architecture's YAML file or a published member's name. `find_source` returns
its best network (for `check` and `export`), `find_subject` the one that a search found (for
`finetune`). It imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nas.errors import InputError
from nas.files import YamlFile, file_name
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
"""Folders of a run that may have weights, the best weights first."""


@dataclass(frozen=True)
class Source:
    """A network to export.

    Attributes:
        run: RUN as the user wrote it.
        folder: the folder for the exported files.
        architecture: the network's architecture.
        weights: the file of its weights; None where they are random.
        provenance: origin of the weights: fine-tuned, inherited, given or random.
        classes: names of the classes in the order of the logits; numbers where no names are known.
        held_out: share (below 1) or number of images that were held out of the training.
        seed: the seed that selected those images.
        background: the colour that transparent pixels of the images were laid on.
    """

    run: str
    folder: Path
    architecture: Architecture
    weights: Path | None
    provenance: str
    classes: tuple[str, ...]
    held_out: float | int = 0.1
    seed: int = 0
    background: str = "white"

    def named(self, classes: Sequence[str]) -> Source:
        """Return the same source with these class names, unless it has names already.

        Raises:
            InputError: when their number is not the network's number of classes.
        """
        if len(classes) != self.architecture.classes:
            raise InputError(
                f"the data has {len(classes)} classes (expected {self.architecture.classes}, as the"
                " network). Fix: give the data that it was trained on, or nas finetune it on this"
                " data"
            )
        return self if self.are_named else replace(self, classes=tuple(classes))

    @property
    def run_folder(self) -> Path | None:
        """Return the run folder, or None for an architecture that is not in one."""
        return path if (path := Path(self.run)).is_dir() else None

    @property
    def are_named(self) -> bool:
        """Return whether the classes have names instead of numbers."""
        return self.classes != _numbers(len(self.classes))


def find_source(run: str, weights: Path | None = None, out: Path | None = None) -> Source:
    """Return the network of a run folder, an architecture's YAML file or a published member's name.

    For a run folder it is the fine-tuned network if there is one, else the network that the search
    found.

    Args:
        run: the folder, the file or the name.
        weights: a file of weights that replaces the run's own.
        out: the folder to export to; by default RUN/export, FILE-export beside an architecture's
            file, or NAME-export.

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
        # A fine-tuning without its weights file is not finished, so the inherited weights are the
        # best ones.
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
    # The given weights may come from another fine-tuning than the run's own. So class names and
    # held-out images come from the description beside them, never from the run.
    given = replace(
        source, weights=weights, provenance="given", classes=_numbers(architecture.classes)
    )
    return _described(given, weights.parent)


def _architecture_file(run: Path, home: Path) -> Path:
    """Return the architecture file of a folder in a run, or else that of the run.

    A fine-tuned network may have another head, which only its own file describes.

    Raises:
        InputError: when both are missing.
    """
    own = home / ARCHITECTURE_FILE
    if own.is_file() or (run / ARCHITECTURE_FILE).is_file():
        return own if own.is_file() else run / ARCHITECTURE_FILE
    raise InputError(
        f"{run}: is not a run folder ({ARCHITECTURE_FILE} is missing). Fix: make one with nas"
        " search"
    )


def _described(source: Source, home: Path) -> Source:
    """Return the source with the data of its fine-tuning, where finetune.yaml describes it."""
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
            ["data", "classes"], f"has {len(classes)} names (expected {count}, as the network)"
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
        background=data.get("background", source.background),
    )


def _numbers(count: int) -> tuple[str, ...]:
    """Return numbers as class names, where no names are known."""
    return tuple(str(index) for index in range(count))


@dataclass(frozen=True)
class Subject:
    """A network to fine-tune.

    Attributes:
        architecture: the network's architecture.
        run: its run folder; None for a network that is not from a run.
        weights: the file of its inherited weights; None where it has none.
    """

    architecture: Architecture
    run: Path | None = None
    weights: Path | None = None

    def folder(self, from_scratch: bool) -> Path:
        """Return the default folder of the fine-tuning, in the run or else in ./runs."""
        name = f"{FINETUNE_FOLDER}-scratch" if from_scratch else FINETUNE_FOLDER
        if self.run:
            return self.run / name
        # The name stands in a file that may be of somebody else, and must not lead elsewhere.
        return Path("runs") / file_name(f"{name}-{self.architecture.name or 'architecture'}")


def find_subject(name: str | Path) -> Subject:
    """Return the network that `name` names, as the search found it.

    Args:
        name: a run folder, an architecture's file, or a published member's name.

    Raises:
        InputError: when it is none of them, or its network is not a classifier.
    """
    path = Path(name)
    subject = _found_by_search(path) if path.is_dir() else Subject(find_architecture(name))
    head = subject.architecture.head
    if head.layout == "pyramid":
        raise InputError(
            f"{name}: its head {head.kind} outputs maps (expected a classifier, the only kind of"
            " network that nas finetune trains)"
        )
    return subject


def _found_by_search(folder: Path) -> Subject:
    """Return the network that a search found in a run folder.

    Raises:
        InputError: when the folder has no finished run.
    """
    if not (folder / RUN_FILE).is_file():
        raise InputError(
            f"{folder}: is not a finished run ({RUN_FILE} is missing). Fix: make one with nas"
            " search"
        )
    file = YamlFile(folder / RUN_FILE)
    if file.data.get("format") != RUN_FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r} (expected '{RUN_FORMAT}')")
    weights = folder / WEIGHTS_FILE
    architecture = load_architecture(folder / ARCHITECTURE_FILE)
    return Subject(architecture, folder, weights if weights.is_file() else None)
