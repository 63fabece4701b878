"""The files of a run folder: their names, and `run.yaml` as validated data.

`search` writes a run, and later commands add their files. `check`, `finetune`, `export` and
`report` read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from nas.errors import InputError
from nas.files import MOST_NUMBER, YamlFile
from nas.passwords import masked_command
from nas.quantities import colour
from nas.space.architecture import MOST_SIDE, STRIDE
from nas.validation import validated

RUN_FORMAT = "nas-run-1"
RUN_FILE = "run.yaml"
BEGUN_FILE = "begun.yaml"
"""The command of a search that is not finished; it is removed once `run.yaml` is there."""
ARCHITECTURE_FILE = "architecture.yaml"
WEIGHTS_FILE = "weights.safetensors"
WEIGHTS_FORMAT = "nas-weights-1"
"""Format in a weights file's header; its tensors are those of `nas.build(arch).state_dict()`."""
IMAGES_FILE = "images.csv"
"""Hashes of the images that a network was trained on or chosen by."""
FINETUNE_FOLDER = "finetune"
FINETUNE_FILE = "finetune.yaml"
SUPERNET_FILE = "supernet.yaml"
EXPORT_FOLDER = "export"
COMMON = "best on all"
"""Row of the member that meets all targets, in a search on several devices."""
BEST = "best on "
"""Prefix, before a device's name, of its best member in a search on several devices."""


Number = Annotated[float, Field(ge=-MOST_NUMBER, le=MOST_NUMBER)]
"""A figure that may be negative; sums and products of a few are finite too."""
Amount = Annotated[float, Field(ge=0, le=MOST_NUMBER)]
"""A latency, a standard error or another figure that is not negative."""


class Part(BaseModel):
    """A part of a YAML file. Unknown keys are ignored, so that later versions may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class UsedFile(Part):
    """An input file of a run with its checksum; both are empty for objects made in memory."""

    file: str = ""
    sha256: str = ""


class UsedSpace(UsedFile):
    """The space of a run, at the sizes of the search.

    Attributes:
        frozen: parts that were not searched, such as stage1; they are in the result as they were.
        start: name of the member that they are of.
    """

    name: str
    resolution: tuple[int, int]
    classes: int
    frozen: tuple[str, ...] = ()
    start: str = ""


class UsedTable(UsedFile):
    """The latency table of a run.

    Attributes:
        kind: the kind of device that measures (empty in older runs).
        precision: of the networks that it has latencies of (empty in older runs).
        expected_error: expected error of its predictions in percent.
    """

    device: str
    kind: str = ""
    soc: str
    os: str
    runtime: str
    precision: str = ""
    provenance: str
    expected_error: Amount | None
    expected_error_source: str


class UsedScores(UsedFile):
    """The scores that a run's accuracies come from.

    Attributes:
        kind: law, recorded or posterior. Older runs lack it; they had recorded scores.
        evidence_share: for posterior scores, the share of the prior's variance that the
            measurements removed, 0 to 1.
        data: fingerprint of the images that recorded scores were measured on.
        precision: of the networks that they are accuracies of.
    """

    provenance: str
    kind: str = "recorded"
    metric: str = "top1"
    fingerprint: str = ""
    evidence_share: Amount | None = None
    observed: int | None = None
    data: str | None = None
    precision: str = "float32"


class UsedImagesRecord(Part):
    """The images that a network was trained on or chosen by; images.csv has their hashes.

    Attributes:
        sha256: of images.csv.
        trained: number of images that its weights were trained on.
        held_out: number of images that it was scored, evaluated or chosen by.
        unknown: files of weights or scores whose images are not recorded.
    """

    sha256: str = ""
    trained: int = 0
    held_out: int = 0
    unknown: tuple[str, ...] = ()


class ScoreBy(Part):
    """The way in which members were scored.

    Attributes:
        name: table, alpha or evaluate.
        judge: for evaluate, the description of the evaluator.
    """

    name: str = "table"
    judge: str = ""


class Target(Part):
    """The limits of a search.

    Attributes:
        latency_ms: maximum latency in ms; None for a search without a limit on latency.
        reason: origin of the limit on latency.
        min_accuracy: minimum expected accuracy in percent.
        max_drop: maximum drop against the largest member in points.
    """

    latency_ms: Amount | None
    reason: str
    macs: Amount | None = None
    params: Amount | None = None
    memory_mb: Amount | None = None
    min_accuracy: Number | None = None
    max_drop: Number | None = None

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits other than latency, by name."""
        given = {"macs": self.macs, "params": self.params, "memory_mb": self.memory_mb}
        return {name: most for name, most in given.items() if most is not None}


class Engine(Part):
    """The engine of a search."""

    name: str
    seed: int | None = None


class ExpectedAccuracy(Part):
    """An expected accuracy with its standard error.

    For a published member it is the published accuracy, and `predicted` is the predicted one.

    Attributes:
        metric: the field that holds the value.
        top1, miou: the accuracy in percent.
        extrapolated: whether the member lies outside the data of the scores.
        reasons: why it lies outside.
    """

    metric: Literal["top1", "miou"] = "top1"
    top1: Number | None = None
    miou: Number | None = None
    standard_error: Amount
    source: str = ""
    extrapolated: bool = False
    reasons: tuple[str, ...] = ()
    predicted: Number | None = None
    predicted_error: Amount | None = None

    @model_validator(mode="after")
    def _has_value(self) -> ExpectedAccuracy:
        if getattr(self, self.metric) is None:
            raise ValueError(f"{self.metric} is missing")
        return self

    @property
    def value(self) -> float:
        """Return the accuracy in percent of `metric`."""
        value: float = getattr(self, self.metric)
        return value


class Difference(Part):
    """The expected accuracy of the found member minus that of another member, in points."""

    points: Number
    standard_error: Amount

    @property
    def tied(self) -> bool:
        """Return whether the difference is within its standard error."""
        return abs(self.points) <= self.standard_error


class Member(Part):
    """A member on the run's device.

    Attributes:
        latency_ms: predicted latency.
        latency_error: its standard error in ms.
        cost: expected accuracy drop against the largest member, in points.
        accuracy: expected accuracy; None where the scores only know costs, and in older runs.
        keeps_limits: whether it meets all limits of the search; None in older runs.
    """

    latency_ms: Amount
    latency_error: Amount | None = None
    cost: Number
    accuracy: ExpectedAccuracy | None = None
    difference: Difference | None = None
    keeps_limits: bool | None = None
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    attention: tuple[int, ...]
    params: int
    macs: int


class AtSize(Part):
    """The answer at one input size, of a search that chose the size.

    Attributes:
        latency_ms: predicted latency; None where no member keeps the limits at this size.
        chosen: whether it is the run's result.
        reason: why there is no answer.
    """

    resolution: tuple[int, int]
    latency_ms: Amount | None = None
    accuracy: ExpectedAccuracy | None = None
    chosen: bool = False
    reason: str = ""


class Result(Member):
    """The found member.

    Attributes:
        evaluated: accuracy of the supernet's slice in percent, where the search evaluated members.
        drop: its drop in points.
        priced: share of the latency that has no row in the table, 0 to 1.
    """

    evaluated: Number | None = None
    drop: Number | None = None
    priced: Amount = 0.0

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        # In older runs "accuracy" was a number, the evaluated accuracy.
        if isinstance(data, dict) and isinstance(data.get("accuracy"), (int, float)):
            return {**data, "evaluated": data["accuracy"], "accuracy": None}
        return data


class About(Part):
    """One search on one device, as its `run.yaml` records it.

    Attributes:
        classes: names of the classes of the inherited weights; empty without weights.
        published: the space's published members; empty in older runs.
        sizes: the answer at each input size, where the search chose one.
        answers: the found members by name, for a search on several devices: the member for all
            devices, and the best member of each device.
        images: those that the result was trained on or chosen by; None where no image was used, and
            in older runs.
        common: whether the result meets the targets of all devices; None for a search on one.
        reason: why no member meets the targets of all devices.
    """

    format: Literal["nas-run-1"]  # RUN_FORMAT
    command: str
    date: str
    versions: dict[str, str]
    supernet: str | None = None
    classes: tuple[str, ...] = ()
    space: UsedSpace
    table: UsedTable
    scores: UsedScores
    score_by: ScoreBy = ScoreBy()
    target: Target
    engine: Engine
    result: Result
    published: dict[str, Member] = {}
    sizes: tuple[AtSize, ...] = ()
    answers: dict[str, Member] = {}
    images: UsedImagesRecord | None = None
    common: bool | None = None
    reason: str = ""

    @field_validator("command")
    @classmethod
    def _masked(cls, command: str) -> str:
        # Older versions recorded the password of a database's address.
        return masked_command(command)


Name = str | int | float
"""Name of a class; YAML reads some names as numbers."""
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Side = Annotated[int, Field(ge=STRIDE, le=MOST_SIDE, multiple_of=STRIDE, strict=True)]


class TrainedData(Part):
    """The images of a training, as `supernet.yaml` and `finetune.yaml` record them.

    Attributes:
        source: in words.
        images: number of images to train on.
        held_out: number of images held out of training.
        total: number of both.
        dataset, name, fingerprint, background: as in `nas.runs.trained_on.ImageRange` and
            `nas.data`.
        classes: names of the classes.
    """

    source: str | None = None
    images: Count | None = None
    held_out: Count | None = None
    total: Count | None = None
    dataset: str = ""
    name: str = ""
    fingerprint: str = ""
    background: Annotated[str, AfterValidator(colour)] | None = None
    classes: tuple[Name, ...] | None = None

    @model_validator(mode="after")
    def _check_counts(self) -> TrainedData:
        if self.total is not None and (self.held_out or 0) > self.total:
            raise ValueError(f"held_out: is {self.held_out} of {self.total} images")
        return self


class TrainedRecipe(Part):
    """The part of a recorded recipe that later commands read."""

    seed: Count = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class TrainedFile(Part):
    """What later commands read of `supernet.yaml` and of `finetune.yaml`."""

    data: TrainedData | None = None
    recipe: TrainedRecipe | None = None
    command: str = ""


class SupernetFile(TrainedFile):
    """What later commands read of `supernet.yaml`."""

    resolution: tuple[Side, Side]
    classes: Annotated[int, Field(ge=2, le=100_000, strict=True)]
    recipe: TrainedRecipe


def read_trained(path: Path, kind: type[TrainedFile] = TrainedFile) -> YamlFile:
    """Return a supernet.yaml or a finetune.yaml whose keys have the types that are read.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    validated(file, kind, file.data)
    return file


def read_about(folder: Path) -> dict[str, About]:
    """Return the searches of a run folder by device: one, or one per device searched together.

    For several devices the result is the member that meets all targets, or without such a member
    the best member of each device.

    Raises:
        InputError: when the folder is not a finished run, or its run.yaml is damaged.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        what = (
            f"is not a finished run ({RUN_FILE} is missing)"
            if folder.is_dir()
            else "there is no such run folder"
        )
        raise InputError(f"{folder}: {what}. Fix: make one with nas search")
    file = YamlFile(path)
    if file.data.get("format") != RUN_FORMAT:
        raise file.error(
            ["format"],
            f"is {file.data.get('format')!r} (expected '{RUN_FORMAT}'), so this is not a run",
        )
    if "devices" not in file.data:
        about = validated(file, About, file.data)
        return {about.table.device: about}
    return {about.table.device: about for about in _several(file)}


_SHARED = ("format", "command", "images", "supernet", "classes")
"""Keys of a run on several devices that are the same for each of them."""


def _several(file: YamlFile) -> list[About]:
    """Return one `About` per device of a search on several devices.

    Its run.yaml has the rows of all members at the top level, with a latency per device.
    """
    devices = file.data["devices"]
    rows = file.data.get("result")
    if not isinstance(devices, list) or not isinstance(rows, dict):
        raise file.error(["devices"], "expected a list of devices, and the result as a mapping")
    found = []
    for index, entry in enumerate(devices):
        keys: list[str | int] = ["devices", index]
        shared = {key: file.data[key] for key in _SHARED if key in file.data}
        data = {
            **(entry if isinstance(entry, dict) else {}),
            **shared,
            "reason": file.data.get("reason", ""),
        }
        name = validated(file, UsedTable, data.get("table"), [*keys, "table"]).device
        target = validated(file, Target, data.get("target"), [*keys, "target"]).latency_ms
        member = COMMON if COMMON in rows else f"{BEST}{name}"
        # None is a missing row of the result, which `_on_device` reports.
        rows_here = {
            each: _on_device(file, each, row, name, target)
            for each, row in {member: None, **rows}.items()
        }
        members = {each: row for each, row in rows_here.items() if row is not None}
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
    """Return a row of a search on several devices with its latency on one of them.

    Return None where the device cannot run the member.
    """
    times = row.get("latency_ms") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(times, dict):
        raise file.error(["result", member], "expected the found member with its latencies")
    ms = times.get(device)
    if ms is None:
        return None
    errors = row.get("latency_error")
    error = errors.get(device) if isinstance(errors, dict) else None
    known = isinstance(ms, (int, float)) and not isinstance(ms, bool)
    # The tolerance covers the rounding of a latency that equals its target.
    keeps = target_ms is None or (known and ms <= target_ms * (1 + 1e-9))
    return {**row, "latency_ms": ms, "latency_error": error, "keeps_limits": keeps}
