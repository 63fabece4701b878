"""The surface of the command line is frozen: a new option, default or range is a decision that
programs see."""

from __future__ import annotations

import json

import describe_cli
import pytest

from nas.cli import COMMANDS
from nas.cli.options import options_class
from nas.options import options_of

FIX = "Fix: python scripts/describe_cli.py, then commit what it writes"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_what_is_recorded(command: str) -> None:
    recorded = json.loads(describe_cli.SURFACE.read_text())
    there = json.loads(json.dumps(describe_cli.surface()[command]))
    assert there == recorded[command], (
        f"the options of nas {command} are not those in {describe_cli.SURFACE}. {FIX}"
    )


def test_the_reference_page_is_what_the_options_say() -> None:
    assert describe_cli.REFERENCE.read_text() == describe_cli.reference(), (
        f"{describe_cli.REFERENCE} is old. {FIX}"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_has_bounds_and_every_help_stands_alone(command: str) -> None:
    for option in options_of(options_class(command)).values():
        assert option.about.help[0].isupper() and option.about.help.endswith("."), option.long
        if option.kind in (int, float) and not isinstance(option.default, bool):
            lower = option.about.at_least is not None or option.about.above is not None
            upper = option.about.at_most is not None or option.about.below is not None
            assert lower and upper, f"{option.long}: a number without bounds"
