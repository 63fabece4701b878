"""Options of `nas predict`, `nas profile` and `nas check`, from which their CLI is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.devices.precision import Precision
from nas.options import ANY, LARGEST_SEED, Options, option, part
from nas.quantities import seconds
from nas.space.sizes import Sizes

DEVICE_HELP = "Device by name (see `nas devices`), or the folder of its table."
_TOOL_HELP = "Program file of LiteRT's benchmark_model for Android phones (arm64)."
_ELSEWHERE = "Measuring on another machine"
_FIGURES = "Latencies from other sources"
MOST_NETWORKS = 10_000


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Options of `nas predict`."""

    arch: str = option(
        help=(
            "Architecture's YAML file, run folder, or name of a published member. With --image: a"
            " .tflite or .onnx file of `nas export`."
        ),
        argument=True,
    )
    device: str | None = option(None, help=DEVICE_HELP, shown="required without --image")
    image: Path | None = option(
        None,
        help="Photo to classify with an exported file instead of predicting a latency.",
        metavar="PHOTO",
    )
    top: int = option(
        5,
        help="Number of classes to print.",
        at_least=1,
        at_most=1_000_000,
        requires={"image": ANY},
    )
    sizes: Sizes = part(Sizes)


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """Options of `nas check`.

    Omitted sizes are those of the table's last profile.
    """

    device: str = option(help=DEVICE_HELP)
    run: str | None = option(
        None,
        help=(
            "Run folder or architecture file whose network is measured instead of random ones, or"
            " a .tflite, .onnx or .mlpackage file of any origin."
        ),
        argument=True,
    )
    beside: str | None = option(
        None,
        help=(
            "Network to measure by turns with the file RUN: a run folder, an architecture file, a"
            " published member, or another file."
        ),
        metavar="NETWORK",
        requires={"run": ANY},
    )
    space: str | None = option(
        None, help="Space to draw random networks from.", shown="what was profiled last"
    )
    nets: int = option(
        20, help="Number of random networks to measure.", at_least=1, at_most=MOST_NETWORKS
    )
    seed: int = option(
        0,
        help="Seed of the random networks.",
        at_least=0,
        at_most=LARGEST_SEED,
    )
    sizes: Sizes = part(Sizes)
    benchmark_model: Path | None = option(
        None,
        help=_TOOL_HELP,
        shown="that of LiteRT's release",
    )
    rival: bool = option(
        True,
        help=(
            "Measure the published member that one would ship without the search too, by turns with"
            " the network of RUN."
        ),
        requires={"run": ANY},
    )


@dataclass(frozen=True, kw_only=True)
class ProfileOptions(Options):
    """Options of `nas profile`, which measures a space or makes a table in another way."""

    space: str | None = option(None, help="Space by name or by the path of its YAML file.")
    device: tuple[str, ...] = option(
        (),
        help=(
            "Device to measure on, by name. Give it again for several, which are measured side by"
            " side."
        ),
    )
    sizes: Sizes = part(Sizes)
    unit: str | None = option(
        None,
        help=(
            "Compute unit: cpu or gpu of an Android phone, and npu with --through qai-hub; all,"
            " cpu_and_ne, cpu_and_gpu or cpu_only with Core ML."
        ),
        shown="the device's",
    )
    threads: int | None = option(
        None,
        help="Number of CPU threads, each pinned to a core.",
        at_least=1,
        at_most=1024,
        shown="the device's",
        example="1",
    )
    affinity: str | None = option(
        None,
        help="Hexadecimal mask of an Android phone's cores, as f0 for cores 4 to 7; '' for all.",
        metavar="MASK",
        read=str,
        shown="the device's",
    )
    benchmark_model: Path | None = option(
        None,
        help=_TOOL_HELP,
        shown="that of LiteRT's release",
    )
    precision: Precision | None = option(
        None,
        help=(
            "Precision of weights and activations. Another one than float32 gets a table of its"
            " own, as host-int8. int8 takes a CPU, float16 a GPU or Core ML."
        ),
        shown="the device's, float32 on a CPU",
    )
    budget: float | None = option(
        None,
        help="Maximum duration with its unit, as 90s, 5m or 1h.",
        metavar="DURATION",
        read=seconds,
        above=0,
        at_most=1e9,
        shown="no limit",
        example="5m",
    )
    retry: bool = option(
        False, help="Measure the operations again that the device could not run before."
    )
    bundle: Path | None = option(
        None,
        help="Write a bundle into this folder: the files to measure on --device.",
        metavar="FOLDER",
        panel=_ELSEWHERE,
    )
    kind: str | None = option(
        None,
        help="Kind of a device without a phone.yaml: litert-android for a phone.",
        panel=_ELSEWHERE,
        shown="litert-board",
        requires={"bundle": ANY},
    )
    check_nets: int = option(
        20,
        help="Number of whole networks for `nas check` in the bundle; 0 for none.",
        at_least=0,
        at_most=MOST_NETWORKS,
        panel=_ELSEWHERE,
        requires={"bundle": ANY},
    )
    run: Path | None = option(
        None,
        help="Measure the bundle in this folder on this machine.",
        metavar="FOLDER",
        panel=_ELSEWHERE,
    )
    through: str | None = option(
        None,
        help=(
            "Device farm that measures the bundle of --run, with the farm's device after a colon"
            " where its name differs: qai-hub or runlocal, as 'qai-hub:Samsung Galaxy S24'."
        ),
        metavar="FARM[:DEVICE]",
        panel=_ELSEWHERE,
        requires={"run": ANY},
    )
    merge: Path | None = option(
        None,
        help="Make the table from the results of the bundle in this folder.",
        metavar="FOLDER",
        panel=_ELSEWHERE,
    )
    import_: Path | None = option(
        None,
        help="Add rows from a latency file: once-for-all (YAML), FBNet (JSON) or CSV.",
        metavar="FILE",
        panel=_FIGURES,
    )
    calibrate: Path | None = option(
        None,
        help=(
            "Adjust a table to whole networks that you measured: a CSV file of network,latency_ms."
        ),
        metavar="FILE",
        panel=_FIGURES,
    )
    out: Path | None = option(
        None, help="Folder of the table.", metavar="FOLDER", shown="./latency_tables/DEVICE"
    )
