"""The command line: one short module a command, each importing what is heavy only when it runs."""

from __future__ import annotations

import importlib

import typer

app = typer.Typer(
    help="Hardware-aware architecture search over mobile hybrid transformers.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip

COMMANDS = ("spaces", "devices", "search", "predict", "profile", "check", "train", "finetune", "export", "report")
"""Each is a function of its own name in the module `nas.cli.<name>`."""

for _name in COMMANDS:
    app.command(_name)(getattr(importlib.import_module(f"nas.cli.{_name}"), _name))
