"""Boards as a kind of device: computers with LiteRT that are measured by a bundle.

This folder holds the programs that run there, `run` and `runner`, and the device that answers from
their results here, `replay`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.devices.kinds import BundleRecipe, Connected, DeviceKind, Opening, Settings
from nas.errors import InputError

if TYPE_CHECKING:
    from nas.devices.base import Device

ON_A_BOARD = """\
Measure it on the board, which needs Python 3.8 or newer, numpy, and ai-edge-litert or
tflite-runtime:

    pip install ai-edge-litert numpy          # or: pip install tflite-runtime==2.14.0 'numpy<2'
    python run.py

run.py takes the first runtime that runs the empty file: LiteRT's CompiledModel, its Interpreter,
then tflite-runtime. On ARMv8.0 boards (Raspberry Pi 3 and 4, Jetson Nano, Odroid N2, RK3399) the
first one of ai-edge-litert 2.3.0 ends by signal 4, and the next one is used by itself. What fails
is tried again by the same command.

With nas installed there, `nas profile --run FOLDER` does the same."""


RUNNER = "runner"
"""The folder of `programs` in a bundle, beside run.py, which starts it."""


def programs() -> dict[str, str]:
    """Return the programs that a standalone bundle carries: text by name in the bundle."""
    here = Path(__file__).parent
    files = [here / "run.py", *sorted((here / RUNNER).glob("*.py"))]
    return {file.relative_to(here).as_posix(): file.read_text(encoding="utf-8") for file in files}


class BoardKind(DeviceKind):
    """Computers that run .tflite files; none is ever connected here."""

    name = "litert-board"
    units = ("cpu",)

    def connected(self) -> list[Connected]:
        return []

    def open(self, name: str, settings: Settings, opening: Opening) -> list[Device]:
        """Raise InputError: a board is measured by a bundle alone."""
        raise InputError(
            f"{name}: is measured by a bundle. Fix: nas profile --space SPACE --device {name}"
            " --bundle DIR"
        )

    def bundle_recipe(self) -> BundleRecipe:
        from nas.convert.converter import LITERT, LITERT_INT8
        from nas.devices.base import Device
        from nas.devices.board.runner.measuring import BOUND

        return BundleRecipe(
            target=LITERT,
            copies=Device.copies,
            description="a computer with LiteRT",
            how=ON_A_BOARD,
            standalone=True,
            bound=BOUND,
            by_precision={"float32": LITERT, "int8": LITERT_INT8},
        )


KIND = BoardKind()
