"""The command line: one module per command, imported when the command is called.

`COMMANDS` is the table of commands. Their options are dataclasses beside the components that they
configure; see `nas.options` and `nas.cli.options`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {
    "spaces": "List the search spaces with their published members, or the choices of one.",
    "devices": (
        "List the devices: those that are connected, and those known by their latency table."
    ),
    "search": "Find the most accurate member of a space within a latency target on a device.",
    "predict": (
        "Predict an architecture's latency from a device's table, or classify a photo with an"
        " exported file."
    ),
    "profile": (
        "Measure a space's operations on devices into latency tables. Run it again to resume after"
        " a stop."
    ),
    "check": (
        "Measure random whole networks, or the network of a run, on a device and compare them with"
        " the predictions of its latency table."
    ),
    "train": (
        "Train a supernet and measure the accuracy cost of each move. The same command resumes a"
        " stopped training."
    ),
    "score": (
        "Measure what each move costs on a trained supernet; the same command resumes a stopped"
        " scoring."
    ),
    "finetune": (
        "Train a found network from its inherited weights. The same command resumes a stopped"
        " training."
    ),
    "export": (
        "Export a network with folded batch norms, image normalization and class names, and compare"
        " each file with the original."
    ),
    "data": "List the decoded images that are kept, with their sizes, or remove them.",
    "report": (
        "Write one HTML page with the results of runs, their evidence and the commands that repeat"
        " them, and PNG pictures."
    ),
}
"""Summaries by name. Each command is the function of its name in the module `nas.cli.<name>`."""


class Commands(TyperGroup):
    """The group of all commands, which imports and builds only the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            # Placeholders for help and completion; `get_command` builds the real one.
            name: TyperCommand(name=name, help=text)
            for name, text in COMMANDS.items()
        }
        self._summaries = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command of the command line, imported and built when it is called."""
        # Help and completion list all commands, for which the placeholders suffice.
        if self._summaries or cmd_name not in COMMANDS:
            return self.commands.get(cmd_name)
        from nas.cli.options import build

        return build(cmd_name, COMMANDS[cmd_name])

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of all commands."""
        with self._by_summary():
            super().format_help(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the summaries in full; click would cut them to one line."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the completions of an incomplete command name."""
        with self._by_summary():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _by_summary(self) -> Iterator[None]:
        """Show commands by their summaries alone inside this block, so that none is built."""
        self._summaries = True
        try:
            yield
        finally:
            self._summaries = False


app = typer.Typer(
    cls=Commands,
    help="Hardware-aware architecture search over mobile hybrid transformers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: importing rich, which draws boxes, would take longer than all else in --help.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from nas.versions import __version__

        print(f"nas {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Hardware-aware architecture search over mobile hybrid transformers."""
