"""The files of a run folder: what they are called, and `run.yaml` as checked data.

`search` writes a run, later commands put their files beside it; `check`, `finetune`, `export` and
`report` read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.errors import InputError
from nas.files import YamlFile
from nas.validation import validated

RUN_FORMAT = "nas-run-1"
RUN_FILE = "run.yaml"
ARCHITECTURE_FILE = "architecture.yaml"
WEIGHTS_FILE = "weights.safetensors"
WEIGHTS_FORMAT = "nas-weights-1"
"""In the header of a file of weights, whose tensors are named as in `nas.build(arch).state_dict()`.
"""
FINETUNE_FOLDER = "finetune"
FINETUNE_FILE = "finetune.yaml"
EXPORT_FOLDER = "export"
COMMON = "best on all"
BEST = "best on "
"""Rows of a search on several devices: the member that keeps all targets, and before a device's
name its best one."""


class Part(BaseModel):
    """A part of a YAML file; keys that are not named are ignored, so that files may grow."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class UsedFile(Part):
    """A file that went into a run, with its checksum; empty for what was made in memory."""

    file: str = ""
    sha256: str = ""


class UsedSpace(UsedFile):
    name: str
    resolution: tuple[int, int]
    classes: int


class UsedTable(UsedFile):
    """`expected_error` is in percent; `kind` is what measures on the device (empty in older runs)."""

    device: str
    kind: str = ""
    soc: str
    os: str
    runtime: str
    provenance: str
    expected_error: float | None
    expected_error_source: str


class UsedScores(UsedFile):
    """What the accuracies rest on.

    Attributes:
        kind: law, recorded or posterior; older runs, which do not say it, had recorded scores.
        evidence_share: of posterior ones, how much of the prior's variance the measurements took
            away, 0 to 1.
        data: fingerprint of the images that recorded ones were measured on.
    """

    provenance: str
    kind: str = "recorded"
    metric: str = "top1"
    fingerprint: str = ""
    evidence_share: float | None = None
    observed: int | None = None
    data: str | None = None


class ScoreBy(Part):
    """What slimming judged its moves by: table, alpha or evaluate; `judge` says in words what
    evaluated members."""

    name: str = "table"
    judge: str = ""


class Target(Part):
    """`latency_ms` is None for a search without a limit on latency; the others are its further
    limits."""

    latency_ms: float | None
    reason: str
    macs: float | None = None
    params: float | None = None
    memory_mb: float | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits beside latency, by name."""
        given = {"macs": self.macs, "params": self.params, "memory_mb": self.memory_mb}
        return {name: most for name, most in given.items() if most is not None}


class Engine(Part):
    name: str
    seed: int | None = None


class ExpectedAccuracy(Part):
    """An expected accuracy in percent; of a published member the published one, with the prediction
    beside it."""

    metric: Literal["top1", "miou"] = "top1"
    top1: float | None = None
    miou: float | None = None
    standard_error: float = Field(ge=0)
    source: str = ""
    extrapolated: bool = False
    reasons: tuple[str, ...] = ()
    predicted: float | None = None
    predicted_error: float | None = None

    @model_validator(mode="after")
    def _has_value(self) -> ExpectedAccuracy:
        if getattr(self, self.metric) is None:
            raise ValueError(f"{self.metric} is missing")
        return self

    @property
    def value(self) -> float:
        """In percent of `metric`."""
        value: float = getattr(self, self.metric)
        return value


class Difference(Part):
    """By how many points the found member is expected to be more accurate than another."""

    points: float
    standard_error: float = Field(ge=0)

    @property
    def tied(self) -> bool:
        """Return whether the difference is within its standard error."""
        return abs(self.points) <= self.standard_error


class Member(Part):
    """A member on the run's device: predicted latency with its standard error in ms, accuracy, and
    its shape.

    Attributes:
        cost: expected accuracy drop against the largest member, in points.
        accuracy: None where the scores know costs only, and in older runs.
        keeps_limits: whether it keeps everything that the search was asked to keep; None in older
            runs.
    """

    latency_ms: float
    latency_error: float | None = None
    cost: float
    accuracy: ExpectedAccuracy | None = None
    difference: Difference | None = None
    keeps_limits: bool | None = None
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    attention: tuple[int, ...]
    params: int
    macs: int


class Result(Member):
    """The found member.

    `evaluated` in percent and `drop` in points are of the supernet's slice, where the search
    evaluated members. `priced` is the share of its latency that has no row in the table, 0 to 1.
    """

    evaluated: float | None = None
    drop: float | None = None
    priced: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        # Older runs called what was evaluated "accuracy", a number.
        if isinstance(data, dict) and isinstance(data.get("accuracy"), (int, float)):
            return {**data, "evaluated": data["accuracy"], "accuracy": None}
        return data


class About(Part):
    """One search on one device, as its `run.yaml` tells.

    Attributes:
        published: the space's published members; empty in older runs.
        answers: what was found, by name, where several devices were searched together: for all, and
            for each alone.
        common: whether the result keeps the targets of all devices; None for a search on one.
        reason: why no member keeps the targets of all of them.
    """

    format: Literal["nas-run-1"]  # RUN_FORMAT
    command: str
    date: str
    versions: dict[str, str]
    supernet: str | None = None
    space: UsedSpace
    table: UsedTable
    scores: UsedScores
    score_by: ScoreBy = ScoreBy()
    target: Target
    engine: Engine
    result: Result
    published: dict[str, Member] = {}
    answers: dict[str, Member] = {}
    common: bool | None = None
    reason: str = ""


def read_about(folder: Path) -> dict[str, About]:
    """Return the searches of a run folder by device; one, or one a device where several were
    searched together.

    Of several devices' searches the result is the member that keeps all targets, or each device's
    best where there is none.

    Raises:
        InputError: where there is no finished run, or its run.yaml is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        what = "no finished run" if folder.is_dir() else "no run folder"
        raise InputError(f"{folder}: {what} here (there is no run.yaml); `nas search` writes one")
    file = YamlFile(path)
    if file.data.get("format") != RUN_FORMAT:
        raise file.error(
            ["format"], f"is {file.data.get('format')!r}, expected '{RUN_FORMAT}'; this is no run"
        )
    if "devices" not in file.data:
        about = validated(file, About, file.data)
        return {about.table.device: about}
    return {about.table.device: about for about in _several(file)}


def _several(file: YamlFile) -> list[About]:
    devices = file.data["devices"]
    rows = file.data.get("result")
    if not isinstance(devices, list) or not isinstance(rows, dict):
        raise file.error(["devices"], "expected a list of devices, and the result as a mapping")
    found = []
    for index, entry in enumerate(devices):
        keys: list[str | int] = ["devices", index]
        shared = {key: file.data.get(key) for key in ("format", "command")}
        data = {
            **(entry if isinstance(entry, dict) else {}),
            **shared,
            "reason": file.data.get("reason", ""),
        }
        name = validated(file, UsedTable, data.get("table"), [*keys, "table"]).device
        target = validated(file, Target, data.get("target"), [*keys, "target"]).latency_ms
        member = COMMON if COMMON in rows else f"{BEST}{name}"
        known = {
            each: _on_device(file, each, row, name, target)
            for each, row in {member: None, **rows}.items()
        }
        members = {each: row for each, row in known.items() if row is not None}
        if member not in members:
            raise file.error(
                ["result", member], f"expected the found member with its latency on {name}"
            )
        answers = {
            each: row for each, row in members.items() if each == COMMON or each.startswith(BEST)
        }
        data |= {
            "result": members[member],
            "answers": answers,
            "published": {each: row for each, row in members.items() if each not in answers},
            "common": member == COMMON,
        }
        found.append(validated(file, About, data, keys))
    return found


def _on_device(
    file: YamlFile, member: str, row: Any, device: str, target_ms: float | None
) -> dict[str, Any] | None:
    """Return one row of a search on several devices as it is on this one; None where the device
    does not run it."""
    times = row.get("latency_ms") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(times, dict):
        raise file.error(["result", member], "expected the found member with its latencies")
    ms = times.get(device)
    if ms is None:
        return None
    errors = row.get("latency_error")
    error = errors.get(device) if isinstance(errors, dict) else None
    known = isinstance(ms, (int, float)) and not isinstance(ms, bool)
    keeps = target_ms is None or (known and ms <= target_ms * (1 + 1e-9))
    return {**row, "latency_ms": ms, "latency_error": error, "keeps_limits": keeps}
