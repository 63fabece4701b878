"""The `nas` command."""

from __future__ import annotations

import errno
import os
import sys

from nas.display import printable


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and exit code 1 or 2,
    never a traceback."""
    from nas.cli import app
    from nas.errors import NasError
    from nas.extras import missing_extra

    try:
        os.getcwd()
    except FileNotFoundError:
        print("nas: the working directory was removed. Fix: cd to one that exists", file=sys.stderr)
        sys.exit(2)
    try:
        code = app(prog_name="nas", standalone_mode=False) or 0
        if code == 130:  # what newer versions of typer make of ctrl-C
            _stopped()
        sys.exit(code)
    except NasError as error:
        print(f"nas: {printable(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        print(f"nas: {missing}", file=sys.stderr)
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        _stopped()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # The output's own disk is full; what else cannot be read or written is a NasError by now.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"nas: stdout: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        # Usage errors come from click, of which newer versions of typer carry a copy of their own:
        # known by what they can do, not by their class.
        if type(error).__name__ == "Abort":
            _stopped()
        if not hasattr(error, "format_message"):
            raise
        _usage(error)


def _stopped() -> None:
    print(
        "nas: stopped; what was finished is on disk, the same command goes on from there",
        file=sys.stderr,
    )
    sys.exit(1)


def _usage(error: Exception) -> None:
    message: str = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        sys.exit(2)
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option and context is not None:
        from nas.option_values import meant

        known = [
            name for each in context.command.params for name in each.opts if name.startswith("--")
        ]
        message = f"No such option: {option}{meant(option, known)}"
    if message:  # none where the help was shown instead
        see = f" (see: {context.command_path} --help)" if context else ""
        print(printable(f"nas: {message}{see}"), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
