"""The start of a fine-tuning: the network with its weights, and a head for the data's classes.

`nas.finetune.run` calls `load_start`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas.errors import InputError
from nas.files import file_sha256
from nas.network import Network, build
from nas.runs.resolve import Subject
from nas.weights.network_file import read_header, read_network, with_new_head


@dataclass(frozen=True)
class Start:
    """The network that a fine-tuning starts with.

    Attributes:
        network: with its weights.
        init: file, checksum and supernet of the weights, for the description; None for random ones.
    """

    network: Network
    init: dict[str, Any] | None

    @property
    def kind(self) -> str:
        return "inherited" if self.init else "scratch"


def load_start(
    subject: Subject,
    classes: tuple[str, ...],
    seed: int,
    init: str | Path | None = None,
    from_scratch: bool = False,
    new_head: bool = False,
) -> Start:
    """Return the start of a fine-tuning on data with these classes.

    Args:
        subject: the network to fine-tune.
        classes: names of the data's classes.
        seed: of weights that are drawn at random.
        init: a file of weights; by default those that the run inherited.
        from_scratch: start with random weights.
        new_head: start with a new classifier in place of that of the weights.

    Raises:
        InputError: where there are no weights, or they are for another number of classes.
    """
    if from_scratch and init:
        raise InputError(
            f"--init {init} with --from-scratch: these are two starts. Fix: leave out one of them"
        )
    file = None if from_scratch else init or subject.weights
    if file is None and not from_scratch:
        what = f"{subject.run}: has no weights.safetensors (it was searched without --supernet)"
        raise InputError(
            f"{what if subject.run else 'an architecture has no weights'}. Fix: --init FILE, or"
            " --from-scratch for random weights"
        )
    # The same weights, and the same new head, in every process and in a resumed fine-tuning.
    torch.manual_seed(seed)
    network = (
        build(subject.architecture) if file is None else read_network(file, subject.architecture)
    )
    if new_head:
        network = with_new_head(network, len(classes))
    own_classes = network.architecture.classes
    if own_classes != len(classes):
        some = ", ".join(classes[:3]) + (", .." if len(classes) > 3 else "")
        what = str(file) if file else f"the architecture '{subject.architecture.name}'"
        raise InputError(
            f"{what}: has a head for {own_classes} classes, the data has {len(classes)} ({some})."
            " Fix: --new-head replaces it"
        )
    if file is None:
        return Start(network, None)
    supernet = read_header(file).get("supernet")
    return Start(
        network,
        {
            "file": str(file),
            "sha256": file_sha256(file),
            **({"supernet": supernet} if supernet else {}),
        },
    )
