"""Command-line interface of a command, built from the dataclass of its options.

It consists of help, completion, `--config` and errors. `nas.cli` builds a command here when it is
called, so `nas --help` builds none.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

import typer
import typer.main

from nas.cli import output
from nas.errors import InputError
from nas.option_values import Missing, make, meant
from nas.options import Given, Option, Options, options_of, spelled
from nas.passwords import masked
from nas.signals import CommandStopped, Stopped

_SHARED = "Every command"
SHARED_OPTIONS: dict[str, tuple[Any, str]] = {
    "config": (
        str | None,
        "YAML file of options by their long names. The command line takes precedence.",
    ),
    "json": (bool, "Print the result as one JSON document on stdout."),
    "quiet": (bool, "Print only results and errors, without progress and notes."),
}
"""Type and help, by name, of the options that every command has and no options class declares."""
_FLAGS = tuple(name for name, (kind, _) in SHARED_OPTIONS.items() if kind is bool)


def options_class(name: str) -> type[Options]:
    """Return the options class of a command: the type of its function's only parameter."""
    kind: type[Options] = get_type_hints(getattr(importlib.import_module(f"nas.cli.{name}"), name))[
        "options"
    ]
    return kind


def build(name: str, summary: str) -> Any:
    """Return a command of the command line.

    Args:
        name: the name of the command, of its module in `nas.cli` and of the function there.
        summary: first paragraph of its help. The other paragraphs are those of the docstring of its
            options class.
    """
    kind = options_class(name)

    def call(**values: Any) -> None:
        run_command(name, **values)

    # On the command line each default is None, which means "not given": the dataclass has them.
    declared = options_of(kind).values()
    parameters = [_parameter(option) for option in declared] + [
        _shared(each) for each in SHARED_OPTIONS
    ]
    # Typer derives a command from the signature of its function, so the signature lists the fields.
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    # Typer prints this docstring as the help. The summary replaces the class's own first paragraph
    # ("Options of ...").
    call.__doc__ = "\n\n".join([summary, *inspect.cleandoc(kind.__doc__ or "").split("\n\n")[1:]])
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, context_settings={"help_option_names": ["-h", "--help"]})(call)
    return typer.main.get_command(app)


def run_command(
    command: str,
    /,
    json: bool = False,
    quiet: bool = False,
    config: str | None = None,
    **values: Any,
) -> None:
    """Run a command as its command line does.

    Args:
        command: its name.
        json: whether to print the result as one JSON document.
        quiet: whether to print no progress and no notes.
        config: a YAML file of options.
        values: the options by field name, as text or as Python values; None for an option that is
            not given.
    """
    line = {name: value for name, value in values.items() if value is not None and value != []}
    function: Callable[[Options], None] = getattr(
        importlib.import_module(f"nas.cli.{command}"), command
    )
    output.set_output(as_json=json, quiet=quiet)
    try:
        options = read_options(command, line, config)
        flags = {} if config is None else read_flags(config)
        output.set_output(
            as_json=json or flags.get("json", False), quiet=quiet or flags.get("quiet", False)
        )
        function(options)
    except KeyboardInterrupt as stop:
        raise CommandStopped(stop if isinstance(stop, Stopped) else Stopped()) from None
    finally:
        # A later command in the same process, as in tests, does not inherit --json and --quiet.
        output.set_output()


def read_options(command: str, line: Mapping[str, Any], config: str | None = None) -> Options:
    """Return a command's options from its command line and a `--config` file.

    Raises:
        InputError: for the first mistake. For a missing option it refers to the command's help.
    """
    kind = options_class(command)
    declared = options_of(kind)
    values = {} if config is None else read_config(config, command, kind)
    # The command line comes last and replaces values of the file.
    values |= {
        name: Given(value, spelled(declared[name].long, _told(value)))
        for name, value in line.items()
    }
    try:
        return make(kind, values)
    except Missing as error:
        raise InputError(f"{error} (see: nas {command} --help)") from None


def _told(value: Any) -> Any:
    """Return a value as an error shows it: several ones joined, passwords masked."""
    if isinstance(value, (list, tuple)):
        return " ".join(masked(str(each)) for each in value)
    return masked(value) if isinstance(value, str) else value


def read_config(path: str, command: str, kind: type[Options]) -> dict[str, Given]:
    """Return the options in a YAML file, by field name.

    Raises:
        InputError: for a file that is not a mapping, or naming the line of a key that is not an
            option of the command.
    """
    from nas.files import YamlFile

    file = YamlFile(path)
    names = {option.key: name for name, option in options_of(kind).items()}
    given: dict[str, Given] = {}
    for key, value in file.data.items():
        long = _long(key)
        if long in _FLAGS:
            if not isinstance(value, bool | None):
                raise file.error([key], "is not a flag (expected true or false)")
            continue
        if long not in names:
            hint = meant(long, names) or f". Fix: nas {command} --help lists them"
            raise file.error(
                [key], f"is not an option of nas {command} (expected its long name){hint}"
            )
        if names[long] in given:
            raise file.error(
                [key], "gives the same option as a line before. Fix: remove one of them"
            )
        option = options_of(kind)[names[long]]
        # A name of digits or like a date stays as it is written.
        if option.takes_text and value is not None and not isinstance(value, (str, list, dict)):
            value = file.written([key])
        # An empty value (`seed:`) means that the option is not given.
        if value is not None:
            given[names[long]] = Given(value, f"{path}:{file.line([key])}: {key} {_told(value)}")
    return given


def read_flags(path: str) -> dict[str, bool]:
    """Return the flags that every command has of a file that `read_config` has checked."""
    from nas.files import YamlFile

    given = {_long(key): value for key, value in YamlFile(path).data.items()}
    return {name: bool(given[name]) for name in _FLAGS if name in given}


def _long(key: object) -> str:
    return str(key).removeprefix("--").replace("_", "-")


def _parameter(option: Option) -> inspect.Parameter:
    """Return an option as a parameter for Typer, whose default None means "not given"."""
    shared: dict[str, Any] = {"help": option.help, "show_default": False}
    if option.about.panel:
        shared["rich_help_panel"] = option.about.panel
    kind: Any = list[option.kind] if option.many else option.kind  # type: ignore[name-defined]
    if option.kind is bool:
        info = typer.Option(f"{option.long}/--no-{option.key}", **shared)
    else:
        # Typer passes the text on unread: `nas.option_values.make` reads and checks all values,
        # including those of a --config file and of a Python call.
        shared |= {"parser": str, "metavar": option.type_text}
        if option.choices:
            shared["autocompletion"] = lambda: list(option.choices)
        info = _info(option, shared)
    return _keyword(option.name, Annotated[kind | None, info], None)


def _info(option: Option, shared: dict[str, Any]) -> Any:
    if option.about.argument:
        return typer.Argument(**{**shared, "metavar": option.long})
    return typer.Option(option.long, **shared)


def _shared(name: str) -> inspect.Parameter:
    kind, help_text = SHARED_OPTIONS[name]
    info = typer.Option(f"--{name}", help=help_text, rich_help_panel=_SHARED, show_default=False)
    return _keyword(name, Annotated[kind, info], False if kind is bool else None)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
