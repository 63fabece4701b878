"""The network that RUN names on a command line.

RUN is a run folder, an architecture's YAML file or a published member's name. `find_source` returns
its best network (for `check` and `export`), `find_subject` the one that a search found (for
`finetune`). It imports no torch.
"""

from __future__ import annotations

import shlex
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
    SUPERNET_FILE,
    WEIGHTS_FILE,
    WEIGHTS_FORMAT,
    read_trained,
)
from nas.runs.trained_on import ImageRange, absolute, check_names, read_trained_on
from nas.space import Architecture, load_architecture, published_member
from nas.weight_files import find_file, read_header

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
        are_named: whether the names are known.
        trained_on: the images that the weights were trained on, where their file records them.
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
    are_named: bool = False
    trained_on: tuple[ImageRange, ...] = ()

    def split(self, data: str) -> tuple[float | int, int]:
        """Return the share (or number) of a data set that training did not see, and its seed."""
        if self.provenance == "fine-tuned":
            return self.held_out, self.seed
        ranges = [each for each in self.trained_on if each.name == absolute(data)]
        return (ranges[-1].start, ranges[-1].seed) if ranges else (self.held_out, self.seed)

    def named(self, classes: Sequence[str]) -> Source:
        """Return the same source with these class names, unless it has them in another order.

        Raises:
            InputError: when their number is not the network's number of classes, or the network
                has other names.
        """
        if len(classes) != self.architecture.classes:
            raise InputError(
                f"the data has {len(classes)} classes (expected {self.architecture.classes}, as the"
                " network). Fix: give the data that it was trained on, or nas finetune it on this"
                " data"
            )
        if self.are_named:
            check_names(
                str(self.weights or self.run),
                self.classes,
                classes,
                "give the data that it was trained on, or nas finetune it on this data",
            )
            return self
        return replace(self, classes=tuple(classes), are_named=True)

    @property
    def run_folder(self) -> Path | None:
        """Return the run folder, or None for an architecture that is not in one."""
        return path if (path := Path(self.run)).is_dir() else None


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
    if weights is not None:
        if not weights.exists():
            raise InputError(f"--weights {weights}: there is no such file")
        weights = find_file(weights)
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
        architecture = load_architecture(run)
        source = Source(run, folder, architecture, None, "random", _numbers(architecture.classes))
    if weights is None:
        return source
    # The given weights may come from another fine-tuning than the run's own. So class names and
    # held-out images come from the description beside them, never from the run.
    classes = _numbers(architecture.classes)
    return _described(
        Source(run, folder, architecture, weights, provenance="given", classes=classes),
        weights.parent,
    )


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
    """Return the source with what its weights were trained on, by their header or finetune.yaml."""
    source = _trained(source)
    if not (home / FINETUNE_FILE).is_file():
        return source
    file = read_trained(home / FINETUNE_FILE)
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
    held_out = data.get("held_out")
    held_out = source.held_out if held_out is None else held_out
    seed = recipe.get("seed", source.seed)
    provenance = "fine-tuned" if source.weights else source.provenance
    return replace(
        source,
        provenance=provenance,
        classes=tuple(map(str, classes)),
        are_named=True,
        held_out=held_out,
        seed=seed,
        background=data.get("background") or source.background,
    )


def _trained(source: Source) -> Source:
    """Return the source with the classes and the held-out images that its weights know."""
    if source.weights is None:
        return source
    known = read_trained_on(source.weights)
    if known.classes is not None and len(known.classes) == source.architecture.classes:
        source = replace(source, classes=known.classes, are_named=True)
    return replace(source, trained_on=known.images)


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
        InputError: when it is none of them.
    """
    path = Path(name)
    return _found_by_search(path) if path.is_dir() else Subject(load_architecture(name))


def _found_by_search(folder: Path) -> Subject:
    """Return the network that a search found in a run folder.

    Raises:
        InputError: when the folder has no finished run.
    """
    if not (folder / RUN_FILE).is_file():
        described = folder / ARCHITECTURE_FILE
        own = f"give {described}, with --init {folder} for its weights"
        raise InputError(
            f"{folder}: is not a finished run ({RUN_FILE} is missing). Fix: "
            f"{own if described.is_file() else 'make one with nas search'}"
        )
    file = YamlFile(folder / RUN_FILE)
    if file.data.get("format") != RUN_FORMAT:
        raise file.error(["format"], f"is {file.data.get('format')!r} (expected '{RUN_FORMAT}')")
    weights = folder / WEIGHTS_FILE
    architecture = load_architecture(folder / ARCHITECTURE_FILE)
    return Subject(architecture, folder, weights if weights.is_file() else None)


@dataclass(frozen=True)
class Initial:
    """Weights to start with, and the network that they are of.

    Attributes:
        file: the file of the weights.
        architecture: the network; None where only the names of the tensors can tell it.
    """

    file: Path
    architecture: Architecture | None = None


def find_initial(name: str | Path) -> Initial:
    """Return the weights that --init names.

    Args:
        name: a checkpoint file or a folder with one; a run, of which the fine-tuned weights are
            taken where there are any; or an architecture's YAML file with its weights beside it.

    Raises:
        InputError: when it is none of them.
    """
    path = Path(name)
    if path.is_dir():
        return _in_folder(path)
    if path.suffix in (".yaml", ".yml"):
        architecture = load_architecture(path)
        beside = (path.with_suffix(".safetensors").name, WEIGHTS_FILE, "model.safetensors")
        file = next(
            (path.with_name(each) for each in beside if path.with_name(each).is_file()), None
        )
        if file is None:
            raise InputError(
                f"{path}: an architecture without weights (expected {' or '.join(beside)} beside"
                " it). Fix: give the file of its weights"
            )
        return Initial(file, architecture)
    if not path.exists() and published_member(str(name)) is not None:
        raise InputError(
            f"{name}: a published member, whose weights are not shipped. Fix: give the file of its"
            " weights, as the authors or timm publish it"
        )
    file = find_file(path)
    if file.with_name(SUPERNET_FILE).is_file():
        return _in_folder(file.parent)
    # A file of this project stands beside its architecture.
    described = file.with_name(ARCHITECTURE_FILE)
    if described.is_file() and read_header(file).get("format") == WEIGHTS_FORMAT:
        return Initial(file, load_architecture(described))
    return Initial(file)


def _in_folder(folder: Path) -> Initial:
    """Return the weights of a run, of a fine-tuning, of an export, or of any other folder."""
    if (folder / SUPERNET_FILE).is_file():
        raise InputError(
            f"{folder}: a supernet, not one network. Fix: nas search --supernet"
            f" {shlex.quote(str(folder))}, and give its run"
        )
    home = next((folder / each for each in HOMES if (folder / each / WEIGHTS_FILE).is_file()), None)
    if home is not None and any((each / ARCHITECTURE_FILE).is_file() for each in (home, folder)):
        return Initial(home / WEIGHTS_FILE, load_architecture(_architecture_file(folder, home)))
    if (folder / RUN_FILE).is_file():
        raise InputError(
            f"{folder}: a run without weights (it was searched without --supernet). Fix: nas"
            " finetune it with --from-scratch or --init first"
        )
    described = folder / ARCHITECTURE_FILE
    return Initial(find_file(folder), load_architecture(described) if described.is_file() else None)
