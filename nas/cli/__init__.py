"""The command line: one short module a command, each importing what is heavy only when it runs."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

app = typer.Typer(
    help="Hardware-aware architecture search over mobile hybrid transformers.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        from nas.versions import __version__

        print(f"nas {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Hardware-aware architecture search over mobile hybrid transformers."""


COMMANDS = ("spaces", "devices", "search", "predict", "profile", "check", "train", "finetune", "export", "report")
"""Each is a function of its own name in the module `nas.cli.<name>`."""

for _name in COMMANDS:
    app.command(_name)(getattr(importlib.import_module(f"nas.cli.{_name}"), _name))
