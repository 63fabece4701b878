"""Read and write `device.yaml`: the device of a latency table, and the errors of the table."""

from __future__ import annotations

import dataclasses as plain
import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from nas.display import shortened
from nas.files import MOST_MS, MOST_NUMBER, YamlFile, text_sha256, write_yaml
from nas.validation import mistake_in

Provenance = Literal["measured", "interpolated", "estimated", "priced"]
"""Origins of a latency, from the most to the least trustworthy.

Rows have the first three; `priced` is an operation without a row.
"""

# Strict: a quoted number is an error, and `.inf` and `.nan` of YAML are not latencies.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_OPEN = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


def iso_date(value: Any) -> str:
    """Return `value` as an ISO date or time. Raises ValueError where it is not one."""
    text = value.isoformat() if isinstance(value, datetime.date) else str(value)
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is not an ISO date, as 2026-01-31") from None
    return text


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])(?:\..*)?", re.IGNORECASE)
MOST_CHARACTERS = 100
"""Maximum length of a device's name."""


def check_device_name(name: str) -> str:
    """Return the name of a device, which is the name of its folder on every system.

    Raises:
        ValueError: for one that a file system refuses. Windows has reserved names and drops a dot
            at the end.
    """
    wrong = (
        not _NAME.fullmatch(name)
        or name.endswith(".")
        or _RESERVED.fullmatch(name)
        or len(name) > MOST_CHARACTERS
    )
    if wrong:
        raise ValueError(
            f"is not a name for a device (got {name[:MOST_CHARACTERS]!r}, expected letters, digits,"
            f" '_', '.' and '-', at most {MOST_CHARACTERS}, and none that Windows reserves)"
        )
    return name


def device_name(word: str) -> str:
    """Return what the user calls a device as its name: itself where it is one.

    A serial number may have characters that no file name has, as 127.0.0.1:5555. Where anything
    changes, a checksum keeps different words apart.
    """
    try:
        return check_device_name(word)
    except ValueError:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-._")[:60]
        name = "-".join(filter(None, (plain, text_sha256(word)[:8])))
        return f"device-{name}" if _RESERVED.fullmatch(name) else name


def os_major(text: str) -> str:
    """Return the part of an operating system that rows of one table share.

    That is the major version, as Android 14 or iOS 17. Of Linux it is the name alone, since a
    kernel is updated without a change of what the processor computes.
    """
    if text.startswith("Linux"):
        return "Linux"
    matched = re.match(r"([A-Za-z ]*[A-Za-z])[ -](\d+)", text)
    return f"{matched[1]} {matched[2]}" if matched else text


IsoDate = Annotated[str, BeforeValidator(iso_date)]
Milliseconds = Annotated[float, Field(ge=0, le=MOST_MS)]
Percent = Annotated[float, Field(ge=0, le=1e6)]
Scale = Annotated[float, Field(gt=0, le=1e6)]


class Calibration(BaseModel):
    """The line that turns sums of rows into latencies of whole networks. Further keys are free.

        ms = intercept_ms + scale * (sum of rows)
             + weights_ms * (millions of parameters - weights_from)

    Attributes:
        scale: factor on the sum of rows.
        weights_ms: ms that a million parameters take in a network beside their rows.
        weights_from: millions of parameters whose time is in the rows already.
        nets: number of networks that this was fitted to.
        mape: mean absolute error on those in percent, the calibration's own misfit.
        note: what was wrong with the fit; empty where nothing was.
    """

    model_config = _OPEN
    scale: Scale = 1.0
    weights_ms: Milliseconds = 0.0
    weights_from: Annotated[float, Field(ge=0, le=MOST_NUMBER)] = 0.0
    nets: Annotated[int, Field(ge=0)] = 0
    mape: Percent | None = None
    note: str = ""


class Check(BaseModel):
    """Errors of predictions on networks that the calibration never saw. Further keys are free.

    Attributes:
        nets: number of networks measured.
        mape: mean absolute error in percent.
        bias: mean signed error in percent; negative where the table predicts too little.
        within_5: share of networks with an error of at most 5 %, in percent.
        within_10: share of networks with an error of at most 10 %, in percent.
        spearman: rank correlation; None where it is not defined.
        date: of the measurement.
        drift: percent by which networks of the calibration took longer than when the table was
            calibrated; None where none of them was measured.
        mape_without_drift: `mape` with that drift removed from the measured latencies.
    """

    model_config = _OPEN
    nets: Annotated[int, Field(ge=1)]
    mape: Percent
    bias: float
    within_5: Percent
    within_10: Percent
    spearman: float | None
    date: IsoDate
    drift: float | None = None
    mape_without_drift: Percent | None = None

    def __str__(self) -> str:
        rank = "" if self.spearman is None else f", Spearman {self.spearman:.3f}"
        return (
            f"{self.nets} whole networks measured on {self.date}: bias {self.bias:+.1f} %, "
            f"{self.within_5:.0f} % within 5 %, {self.within_10:.0f} % within 10 %{rank}"
        )


class Profiled(BaseModel):
    """A space that a table was completed for, with its own calibration and check.

    Attributes:
        space: as `--space` takes it.
        name: of the space.
        resolution: input size and classes or head, as `nas.latency.network_times.resolution_id`
            writes them.
        scale: as in `Calibration`, as are `weights_ms`, `weights_from`, `nets`, `mape` and `note`.
        intercept_ms: cost of a call.
        check: the last check of this space.
    """

    model_config = _OPEN
    space: str
    name: str
    resolution: str
    scale: Scale = 1.0
    intercept_ms: Milliseconds = 0.0
    weights_ms: Milliseconds = 0.0
    weights_from: Annotated[float, Field(ge=0, le=MOST_NUMBER)] = 0.0
    nets: Annotated[int, Field(ge=0)] = 0
    mape: Percent | None = None
    note: str = ""
    check: Check | None = None

    @property
    def size(self) -> str:
        """Return height x width of the input."""
        return self.resolution.partition("/")[0]


@plain.dataclass(frozen=True)
class Costs:
    """The costs of `nas.latency.cost_model`, in ms: twelve, and further ones of neural units.

    The further costs are paid on top of the twelve. They are 0 where a phone has too few figures
    to tell them apart.

    Attributes:
        call: of one prediction, before any layer.
        compute: of 10^9 multiply-accumulates (MACs).
        weights: of reading 10^6 weights.
        memory: of writing 10^6 activations; of moving them, in pooling.
        layer: of starting a layer that multiplies or pools.
        elementwise: of 10^6 values read or written by an element-wise layer.
        norm: of 10^6 values read or written by a layer norm.
        softmax: of 10^6 values read or written by a softmax.
        layout: of one change of layout (transpose, reshape between maps and tokens).
        gelu, silu: of 10^6 values read or written by these activations; a sigmoid counts as a SiLU.
        linear: of 10^9 multiply-accumulates in the products of linear attention.
        depthwise: of 10^9 multiply-accumulates in depthwise convolutions, which a unit of matrix
            products cannot run.
        depthwise_memory: of 10^6 activations that those move.
        product: of 10^9 multiply-accumulates in the products of attention.
        product_memory: of 10^6 activations that those move.
        spill: of 10^6 activations that one layer moves beyond the first 10^6: they do not stay in
            the memory on the unit.
        transpose: of 10^6 activations read or written by a change of layout.
        gather: of 10^6 activations read or written by a concatenation, a shift or a gather.
        vector: of a layer over one position, as in squeeze-and-excitation.
        read: of 10^6 activations that a layer which multiplies reads, where that takes time beside
            its arithmetic.
    """

    call: float
    compute: float
    weights: float
    memory: float
    layer: float
    elementwise: float
    norm: float
    softmax: float
    layout: float
    gelu: float
    silu: float
    linear: float
    depthwise: float = 0.0
    depthwise_memory: float = 0.0
    product: float = 0.0
    product_memory: float = 0.0
    spill: float = 0.0
    transpose: float = 0.0
    gather: float = 0.0
    vector: float = 0.0
    read: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Return the costs by name, without further ones that are 0."""
        optional = optional_costs()
        return {
            name: cost for name, cost in plain.asdict(self).items() if cost or name not in optional
        }


def optional_costs() -> tuple[str, ...]:
    """Return the names of the further costs, which may be left out."""
    return tuple(entry.name for entry in fields(Costs) if entry.default is not plain.MISSING)


class EstimateInfo(BaseModel):
    """Method of an estimate and its error on models left out of the fit. Further keys are free.

    These keys are read where they exist: `costs_ms` (prices what has no row), `dense` (the error of
    prices at dense sizes), `largest_resolution` (of the fitted networks), `leave_one_family_out`,
    `adjusted` (a calibration) and `accuracy_cost` (of the precision, in words).

    Attributes:
        method: in words.
        leave_one_out_mape: mean absolute error in percent on what was left out.
    """

    model_config = _OPEN
    method: str
    leave_one_out_mape: Percent

    @model_validator(mode="after")
    def _check_further_keys(self) -> EstimateInfo:
        for key in ("costs_ms", "dense", "leave_one_family_out", "adjusted"):
            if not isinstance(self._more(key), dict):
                raise ValueError(f"{key}: expected keys and values (got {self._more(key)!r})")
        for place, value in (
            ("dense.extra", self._more("dense").get("extra", 0)),
            ("adjusted.expected", self._more("adjusted").get("expected", 0)),
            ("leave_one_family_out.mape", self._more("leave_one_family_out").get("mape", 0)),
            ("largest_resolution", (self.model_extra or {}).get("largest_resolution", 0)),
        ):
            if not isinstance(value, float | int) or not 0 <= value <= MOST_NUMBER:
                raise ValueError(f"{place}: expected a number, 0 or more (got {value!r})")
        # Reading the costs raises for an incomplete or negative one: at loading, not in the middle
        # of a search.
        _ = self.costs
        return self

    def _more(self, key: str) -> Any:
        return (self.model_extra or {}).get(key, {})

    @property
    def costs(self) -> Costs | None:
        """Return the costs that the rows were made with, or None where the file has none."""
        costs = self._more("costs_ms")
        if not costs:
            return None
        known = [entry.name for entry in fields(Costs)]
        needed = [name for name in known if name not in optional_costs()]
        for name in [*needed, *costs]:
            value = costs.get(name)
            if (
                name not in known
                or not isinstance(value, float | int)
                or not 0 <= value <= MOST_NUMBER
            ):
                raise ValueError(
                    f"costs_ms.{name}: expected the costs {', '.join(known)}, each a number, 0 or"
                    f" more (got {value!r})"
                )
        return Costs(**{name: float(cost) for name, cost in costs.items()})

    @property
    def calibrated_error(self) -> float | None:
        """Return the expected error in percent after the last `--calibrate`; None without one.

        It is never below that calibration's own misfit.
        """
        expected = self._more("adjusted").get("expected")
        return None if expected is None else float(expected)

    @property
    def family_error(self) -> float:
        """Return the mean error in percent of families left out of the fit; 0 where unknown."""
        return float(self._more("leave_one_family_out").get("mape", 0.0))

    def priced_error(self, resolution: tuple[int, int], dense: bool) -> float:
        """Return the error in percent of operations without a row, beyond `leave_one_out_mape`.

        Prices and rows come from one model, so it is 0 at the sizes that were fitted. A
        segmentation head, or more pixels than any fitted network has, counts as dense. The error
        there was measured on segmentation networks.
        """
        # Pixels are compared, as an input need not be square.
        largest = (self.model_extra or {}).get("largest_resolution", 0)
        beyond = resolution[0] * resolution[1] > largest**2
        return float(self._more("dense").get("extra", 0.0)) if dense or beyond else 0.0

    @property
    def accuracy_cost(self) -> str:
        """Return what the table's precision costs in accuracy where published; "" where unknown."""
        return str((self.model_extra or {}).get("accuracy_cost", ""))

    @property
    def source(self) -> str:
        """Return the networks that the error was measured on, in words."""
        family = (
            f"; {self.family_error:.0f} % for families without published networks"
            if self.family_error
            else ""
        )
        published = f"published networks, each left out of the fit in turn{family}"
        if self.calibrated_error is None:
            return published
        file = self._more("adjusted").get("file", "the calibration's file")
        return f"networks in {file}; {self.leave_one_out_mape:.1f} % before: {published}"


@dataclass(frozen=True, config=_STRICT)
class DeviceInfo:
    """The device and the software of a table, its settings, its calibration and its errors.

    Attributes:
        name: what `--device` takes; the folder of the table.
        kind: of device: litert-host, litert-android, coreml, ...
        soc: the chip.
        os: the operating system with its build.
        runtime: what ran the operations.
        runtime_version: of the runtime.
        compute_unit: the unit that was asked for.
        placement: the unit that ran the operations.
        precision: of the weights and activations while running.
        threads: CPU threads; None where the runtime chooses.
        affinity: cores or mask that the threads were pinned to, as "cores 2,3" or "mask f0".
        serial: serial number of the phone, where it was named by that instead of its model.
        tools: versions of the packages that converted and measured.
        date: of the last change.
        provenance: the worst of the rows.
        intercept_ms: cost of a call before any operation.
        calibration: over all spaces.
        spaces: those that the table was completed for, the latest last, each with its own
            calibration and check.
        check: the last one.
        left_out: number of operations that profiling has not reached yet, by the space and the
            sizes as `nas profile --space` takes them; empty once every profile is complete.
        estimate: method and error of interpolated or estimated rows.
        source: of the figures, in words.
    """

    name: Annotated[str, AfterValidator(check_device_name)]
    kind: str
    soc: str
    os: str
    runtime: str
    runtime_version: str
    compute_unit: str
    precision: str
    provenance: Provenance
    date: IsoDate
    format: Literal["nas-device-1"] = "nas-device-1"
    description: str = ""
    placement: str = ""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    affinity: str = ""
    serial: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    intercept_ms: Milliseconds = 0.0
    calibration: Calibration = field(default_factory=Calibration)
    spaces: Annotated[tuple[Profiled, ...], BeforeValidator(tuple)] = ()
    check: Check | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    estimate: EstimateInfo | None = None
    source: str = ""

    @property
    def mask(self) -> str | None:
        """Return the mask of cores, where the threads were pinned to one."""
        kind, _, mask = self.affinity.partition(" ")
        return mask if kind == "mask" else None

    def __repr__(self) -> str:
        setup = (
            f"{self.soc}, {self.runtime} {self.runtime_version} on {self.compute_unit},"
            f" {self.precision}"
        )
        return f"DeviceInfo({self.name!r}, {shortened(setup, 200)}, {self.provenance} {self.date})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data in the order of the file, `format` first."""
        data = TypeAdapter(DeviceInfo).dump_python(self)
        return {"format": data.pop("format"), **data}

    def save(self, path: str | Path) -> None:
        """Write the YAML file that `load_device_info` reads."""
        write_yaml(path, self.to_dict())


def load_device_info(path: str | Path) -> DeviceInfo:
    """Read and validate a `device.yaml`.

    Raises:
        InputError: naming file, line, key and reason.
    """
    file = YamlFile(path)
    known = {entry.name for entry in fields(DeviceInfo)}
    for key in file.data:
        if key not in known:
            raise file.error([key], f"unknown key; known: {', '.join(sorted(known))}")
    if file.data.get("format") != "nas-device-1":
        raise file.error(
            ["format"],
            f"is not a device file (got {file.data.get('format')!r}, expected 'nas-device-1')",
        )
    return make_device_info(file, (), file.data)


def make_device_info(
    file: YamlFile, keys: Sequence[str | int], data: Mapping[str, Any], **more: Any
) -> DeviceInfo:
    """Return the device that `data` describes.

    Args:
        file: that `data` is from, for messages.
        keys: of `data` in the file.
        data: fields of `DeviceInfo`.
        more: further fields, which are not in the file.

    Raises:
        InputError: naming file, line, key and reason.
    """
    try:
        return DeviceInfo(**data, **more)
    except ValidationError as error:
        raise mistake_in(file, error, keys) from None
