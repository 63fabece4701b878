"""What every command shares: the --json contract, where output goes, and what an error looks like."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from nas.printable import printable_lines

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]


def say(text: str = "") -> None:
    """Progress and notes for people, on stderr, so that stdout stays one document or one result.

    Of processes that `torchrun` started together the first one speaks.
    """
    if os.environ.get("RANK", "0") == "0":
        print(printable_lines(text), file=sys.stderr, flush=True)


def emit(document: dict[str, Any] | list[Any], as_json: bool, text: str) -> None:
    """The command's result on stdout: `document` as JSON, or `text` for a person."""
    print(json.dumps(document, indent=2) if as_json else printable_lines(text), flush=True)


def next_step(command: str) -> None:
    """Names the command that continues the job, so that nobody is lost after a stage."""
    say(f"next: {command}")
