"""Copies of a network's weights inside a checkpoint, as training scripts wrap them.

A checkpoint may hold several: the weights as trained and their moving average, each below a key or
a prefix of its own. `nas.weights.importing` looks for the names of a network in them.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nas.errors import InputError

MOST_LEVELS = 6
"""Levels of nested dicts that are searched for weights."""
PREFIXES = ("module.", "model.", "net.")
"""Prefixes by DistributedDataParallel and training frameworks.

They are removed where no network is known whose names could tell the prefix.
"""
_INSIDE = re.compile(r"\b_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""Parts of names by `torch.compile`, FSDP and activation checkpointing, which also wrap single blocks."""
MOST_PREFIXES = 8
"""Prefixes of one dict behind which copies are looked for, those with the most names."""
COUNTERS = frozenset(
    ("decay", "initted", "n_averaged", "num_updates", "step", "total_ops", "total_params")
)
"""Last parts of the names of numbers beside weights.

They are from moving averages (torch, EMA packages) and from counters of operations (thop).
"""
_AVERAGED = re.compile(
    # A word by itself, as in model_ema, ema_state_dict, averaged_model.
    r"(?<![A-Za-z])(?:ema|swa|avg|averaged?|shadow)(?![A-Za-z])"
    # Part of a name in camel case, as in EMACallback and modelEma.
    r"|EMA|Ema|SWA"
    # EMO's trainer.
    r"|(?<![A-Za-z])net_E(?![A-Za-z])"
)


@dataclass(frozen=True)
class Copy:
    """One copy of the weights in a checkpoint.

    Attributes:
        where: the keys and the prefix that lead to it, as "model_ema.module"; empty at the top.
        tensors: by name, without the prefix.
        averaged: whether it is a moving average of the weights.
    """

    where: str
    tensors: dict[str, Tensor]
    averaged: bool

    @property
    def called(self) -> str:
        """Return the copy's place for a message."""
        return f"'{self.where}'" if self.where else "the checkpoint's top level"


@dataclass(frozen=True)
class Choice:
    """The copy that is taken from a checkpoint.

    Attributes:
        copy: the copy.
        matched: number of its tensors whose names were looked for.
        note: a sentence for the user where there were several copies, or "".
    """

    copy: Copy
    matched: int
    note: str = ""


def choose(checkpoint: Any, names: Collection[str]) -> Choice:
    """Return the copy of a checkpoint that has the most of these names.

    Of several that have equally many, a moving average is taken, as timm's loader does.

    Args:
        checkpoint: tensors by name, or nested dicts with such.
        names: of a network's tensors in one layout.

    Raises:
        InputError: when the checkpoint holds no tensors.
    """
    # The counters of batch norms hold nothing learned, and an average often lacks them.
    needed = {name for name in names if not name.endswith(".num_batches_tracked")}
    found = [
        (matched, _copy(keys, prefix, tensors))
        for keys, tensors in state_dicts(checkpoint)
        for prefix, matched in _prefixes(tensors, needed).most_common(MOST_PREFIXES)
    ]
    if not found:
        return Choice(largest(checkpoint), 0)
    most = max(matched for matched, _ in found)
    whole = [copy for matched, copy in found if matched == most]
    taken = next((copy for copy in whole if copy.averaged), whole[0])
    # A copy with far fewer names is something else that shares some, as a teacher.
    partial = [copy for matched, copy in found if most / 2 < matched < most and copy.averaged]
    return Choice(taken, most, _note(taken, [c for c in whole if c is not taken], partial))


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, without wrappers and their prefixes.

    For a network that is not known. Where there are an averaged and a live copy, the averaged one
    is taken, with a warning.

    Raises:
        InputError: when there are no tensors.
    """
    main = largest(checkpoint)
    choice = choose(checkpoint, main.tensors)
    if choice.note:
        warnings.warn(choice.note, stacklevel=2)
    return choice.copy.tensors


def largest(checkpoint: Any) -> Copy:
    """Return the state dict with the most tensors, without a prefix that all of them have.

    Raises:
        InputError: when there are no tensors.
    """
    found = list(state_dicts(checkpoint))
    if not found:
        raise InputError(f"this checkpoint has no tensors (got {_contents(checkpoint)})")
    keys, tensors = max(found, key=lambda each: len(each[1]))
    prefix = ""
    weights = [name for name, tensor in tensors.items() if not is_counter(name, tensor)]
    while weights:
        following = next(
            (p for p in PREFIXES if all(name.startswith(prefix + p) for name in weights)), None
        )
        if following is None:
            break
        prefix += following
    return _copy(keys, prefix, tensors)


def state_dicts(
    checkpoint: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every dict with tensors in a checkpoint: the keys that lead to it, and its tensors."""
    if not isinstance(checkpoint, Mapping) or len(keys) > MOST_LEVELS:
        return
    tensors = {
        _unwrapped(str(name)): value
        for name, value in checkpoint.items()
        if isinstance(value, Tensor)
    }
    if tensors:
        yield keys, tensors
    for key, value in checkpoint.items():
        yield from state_dicts(value, (*keys, str(key)))


def _unwrapped(name: str) -> str:
    """Return the name of a tensor without wrappers around single blocks."""
    # A member is looked for among hundreds of names in dozens of layouts, and few have a wrapper.
    return _INSIDE.sub("", name) if "_mod" in name else name


def is_counter(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is a number beside the weights, which is ignored."""
    if tensor.numel() > 1:
        return False
    return name.rpartition(".")[2] in COUNTERS or not tensor.is_floating_point()


def _prefixes(tensors: Mapping[str, Tensor], names: Collection[str]) -> Counter[str]:
    """Return how many names the tensors have behind each prefix, which ends in a dot or is ""."""
    counts = Counter[str]()
    for name in tensors:
        start = 0
        # Behind no prefix, then behind each dot.
        while True:
            if name[start:] in names:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1
            if not start:
                break
    return counts


def _copy(keys: tuple[str, ...], prefix: str, tensors: Mapping[str, Tensor]) -> Copy:
    where = ".".join((*keys, prefix.rstrip("."))).strip(".")
    # mmengine's EMA keeps the weights that it has swapped with the averaged ones beside these, with
    # underscores for dots.
    is_swapped = any(name.startswith("ema_") for name in tensors)
    swapped = {f"ema_{name.replace('.', '_')}" for name in tensors} if is_swapped else set()
    inside = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and name not in swapped
    }
    # torch's AveragedModel has a counter beside the part called "module".
    around = [prefix[: end + 1] for end, letter in enumerate(prefix) if letter == "."]
    averaged = bool(_AVERAGED.search(where)) or any(
        f"{outer}n_averaged" in tensors for outer in ("", *around)
    )
    return Copy(where, inside, averaged)


def _note(taken: Copy, others: list[Copy], partial: list[Copy]) -> str:
    """Return the sentence on which of several copies is taken."""
    if others:
        kind = "the moving average (EMA) of the weights" if taken.averaged else "the first copy"
        return (
            f"several copies of the weights in the checkpoint: {taken.called} is taken, {kind};"
            f" {_listed(others)} {'is' if len(others) == 1 else 'are'} not"
        )
    if partial and not taken.averaged:
        return (
            f"the moving average (EMA) {_listed(partial)} in the checkpoint is incomplete:"
            f" {taken.called} is taken"
        )
    return ""


def _listed(copies: list[Copy]) -> str:
    some = ", ".join(copy.called for copy in copies[:3])
    return some + (f" and {len(copies) - 3} more" if len(copies) > 3 else "")


def _contents(checkpoint: Any) -> str:
    if not isinstance(checkpoint, Mapping):
        return f"one {type(checkpoint).__name__}"
    return ", ".join(repr(str(key)) for key in list(checkpoint)[:4]) or "nothing"
