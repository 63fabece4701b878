"""Entry point of the `nas` command, called by the console script and by `python -m nas`."""

from __future__ import annotations

import errno
import os
import sys

from nas.display import printable


def main() -> None:
    """Run the command line and exit with its code.

    An error that the user can fix is one line on stderr with exit code 1 or 2, never a traceback.
    """
    from nas.cli import app
    from nas.errors import Elsewhere, NasError
    from nas.extras import missing_extra

    try:
        # Many modules resolve paths against the working directory. In a removed one each would fail
        # with its own traceback.
        os.getcwd()
    except FileNotFoundError:
        print("nas: the working directory was removed. Fix: cd to one that exists", file=sys.stderr)
        sys.exit(2)
    try:
        code = app(prog_name="nas", standalone_mode=False) or 0
        if code == 130:  # what newer versions of typer make of ctrl-C
            _stopped()
        sys.exit(code)
    except Elsewhere as error:
        sys.exit(error.exit_code)
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
        # The reader of the pipe has closed it (`nas spaces | head`). Without another stdout Python
        # would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # The disk of stdout itself is full: that error names no file. All other files raise
        # NasError.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"nas: stdout: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        # Usage errors are click's, and newer versions of typer carry their own copy of click. So
        # they are recognised by their methods instead of their class.
        if type(error).__name__ == "Abort":
            _stopped()
        if not hasattr(error, "format_message"):
            raise
        _usage(error)


def _stopped() -> None:
    """Print that the command was stopped, and exit."""
    print(
        "nas: stopped; what was finished is on disk, the same command goes on from there",
        file=sys.stderr,
    )
    sys.exit(1)


def _usage(error: Exception) -> None:
    """Print a usage error of click in one line, and exit with 2."""
    message: str = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        sys.exit(2)
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option and context is not None:
        from nas.option_values import meant

        # Click says only that the option does not exist: add the nearest one that does.
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
