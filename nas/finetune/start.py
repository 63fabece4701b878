"""The start of a fine-tuning: the network with its weights, and a head for the data's classes.

`nas.finetune.run` calls `load_start`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nas.blocks import HeadSpec
from nas.errors import InputError
from nas.files import YamlFile, file_sha256
from nas.network import Network, build
from nas.runs.resolve import Initial, Subject, find_initial
from nas.runs.schema import RUN_FILE, read_trained
from nas.runs.trained_on import TrainedOn, check_names, read_trained_on
from nas.space import Space, load_space
from nas.supernet.checkpoint import Folder
from nas.supernet.description import trained_on, up_to_date
from nas.supernet.warm_start import load_initial, space_of, transfer
from nas.weight_files import read_header
from nas.weights.files import read_checkpoint
from nas.weights.importing import Mismatch
from nas.weights.network_file import (
    load_network,
    reorder_classes,
    tell,
    with_new_head,
    with_other_head,
)


@dataclass(frozen=True)
class Start:
    """The network that a fine-tuning starts with.

    Attributes:
        network: with its weights.
        init: file, checksum and supernet of the weights, for the description; None for random ones.
            Of another member's weights it has `member` and `tensors`, the number that were taken.
        trained_on: what the weights were trained on before.
    """

    network: Network
    init: dict[str, Any] | None
    trained_on: TrainedOn = field(default_factory=TrainedOn)

    @property
    def kind(self) -> str:
        return "inherited" if self.init else "scratch"

    @property
    def words(self) -> str:
        """Return where the weights are from, for provenance."""
        if self.init is None:
            return "random weights"
        file = f"the weights in {self.init['file']}"
        if "member" not in self.init:
            return file
        return f"{self.init['tensors']} tensors of {self.init['member']} among {file}"


def load_start(
    subject: Subject,
    classes: tuple[str, ...],
    seed: int,
    init: str | Path | None = None,
    from_scratch: bool = False,
    new_head: bool = False,
    head: HeadSpec | None = None,
) -> Start:
    """Return the start of a fine-tuning on data with these classes.

    Args:
        subject: the network to fine-tune.
        classes: names of the data's classes.
        seed: of weights that are drawn at random.
        init: weights of the network or of another member of its space, as
            `nas.runs.resolve.find_initial` takes them; by default those that the run inherited.
        from_scratch: start with random weights.
        new_head: start with a new classifier in place of that of the weights.
        head: another head that the network gets, with random weights; it is then a new one.

    Raises:
        InputError: where there are no weights, or they are for other classes.
    """
    if from_scratch and init:
        raise InputError(
            f"--init {init} with --from-scratch: these are two starts. Fix: leave out one of them"
        )
    new_head = new_head or head is not None
    # The same weights, and the same new head, in every process and in a resumed fine-tuning.
    torch.manual_seed(seed)
    if from_scratch:
        network = build(subject.architecture)
        name = f"the architecture '{subject.architecture.name}'"
        return Start(_with_head(network, name, classes, new_head=new_head, head=head), None)
    if init:
        initial = find_initial(init)
    elif subject.weights:
        initial = Initial(subject.weights, subject.architecture)
    else:
        what = f"{subject.run}: has no weights.safetensors (it was searched without --supernet)"
        raise InputError(
            f"{what if subject.run else 'an architecture has no weights'}. Fix: --init FILE, or"
            " --from-scratch for random weights"
        )
    file = initial.file
    header = read_header(file)
    known = known_of(file)
    network, taken = _loaded(initial, subject, new_head=new_head)
    network = _with_head(network, str(file), classes, new_head=new_head, head=head)
    if not new_head and check_names(
        str(file), known.classes, classes, remedy="--new-head starts with a new classifier"
    ):
        assert known.classes is not None
        reorder_classes(network, known.classes, classes)
        warnings.warn(
            f"{file}: the outputs of the classifier are reordered to the classes of the data",
            stacklevel=2,
        )
    described = {"file": str(file), "sha256": file_sha256(file)}
    if "supernet" in header:
        described["supernet"] = header["supernet"]
    return Start(network, described | taken, known)


def known_of(weights: Path) -> TrainedOn:
    """Return what a file of weights was trained on, also where only its supernet knows it."""
    found = read_trained_on(weights)
    named = read_header(weights).get("supernet")
    if found.images or not named:
        return found
    folder = Folder(Path(named))
    if not folder.description.is_file():
        return found
    supernet = trained_on(up_to_date(read_trained(folder.description).data))
    return replace(found, classes=found.classes or supernet.classes, images=supernet.images)


def _loaded(
    initial: Initial, subject: Subject, *, new_head: bool
) -> tuple[Network, dict[str, Any]]:
    """Return the network with the weights, and what to record of how they were taken.

    Raises:
        InputError: when they are neither of the network nor of another member of its space.
    """
    where = str(initial.file)
    content = read_checkpoint(initial.file).content
    try:
        loaded = load_network(content, subject.architecture, where, new_head=new_head)
    except Mismatch as error:
        return _from_member(initial, subject, error, new_head=new_head)
    tell(loaded, where)
    # The copy is recorded where there were several.
    return loaded.network, {"copy": loaded.match.copy} if loaded.match.chosen else {}


def _from_member(
    initial: Initial, subject: Subject, error: Mismatch, *, new_head: bool
) -> tuple[Network, dict[str, Any]]:
    """Return the network with the weights of another member of its space.

    Raises:
        InputError: `error`, when they are of no other member.
    """
    arch = subject.architecture
    space = space_of(arch) or _searched(subject)
    if space is None or initial.architecture == arch:
        raise error
    try:
        member = load_initial(initial, replace(space, resolution=arch.resolution))
    except Mismatch:
        raise error from None
    if member.space.name != arch.space:
        raise error
    source = member.network
    if not (member.has_classifier or new_head):
        raise InputError(
            f"{member.file}: has no classifier. Fix: --new-head starts with a new classifier"
        )
    network = build(arch.at(classes=source.architecture.classes))
    placed = transfer(network, source, member.space)
    total = len(network.state_dict())
    name = source.architecture.name
    notes = [
        *member.notes,
        f"the weights are of {name}, not of {arch.name or 'this network'}: {placed} of {total}"
        " tensors are taken, the others start random",
    ]
    for note in notes:
        warnings.warn(f"{member.file}: {note}", stacklevel=2)
    described = {key: value for key, value in member.describe().items() if key != "sha256"}
    return network, {**described, "tensors": placed}


def _searched(subject: Subject) -> Space | None:
    """Return the space that a run was searched in, by the file that it names; None without one."""
    if subject.run is None:
        return None
    named = YamlFile(subject.run / RUN_FILE).data.get("space")
    file = named.get("file") if isinstance(named, dict) else None
    if not isinstance(file, str) or not Path(file).is_file():
        return None
    space = load_space(file)
    return space if space.name == subject.architecture.space else None


def _with_head(
    network: Network,
    name: str,
    classes: Sequence[str],
    *,
    new_head: bool,
    head: HeadSpec | None,
) -> Network:
    """Return the network with another head or with a new classifier, where one is asked for.

    Raises:
        InputError: when it has another number of classes than the data, and no new one is asked
            for.
    """
    if head is not None:
        return with_other_head(network, head)
    if new_head:
        return with_new_head(network, len(classes))
    own_classes = network.architecture.classes
    if own_classes != len(classes):
        some = ", ".join(classes[:3]) + (", .." if len(classes) > 3 else "")
        raise InputError(
            f"{name}: has a head for {own_classes} classes, the data has {len(classes)} ({some})."
            " Fix: --new-head replaces it"
        )
    return network
