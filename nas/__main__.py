"""Entry point of the `nas` command, called by the console script and by `python -m nas`."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings

from nas.display import printable, shortened
from nas.passwords import masked_text
from nas.signals import CommandStopped, Stopped, last_stop, raise_on_signals


def main() -> None:
    """Run the command line and exit with its code.

    An error that the user can fix is one line on stderr with exit code 1 or 2, never a traceback.
    """
    from nas.cli import app
    from nas.errors import Elsewhere, NasError
    from nas.extras import missing_extra

    warnings.showwarning = _warn
    # In a locale without "±" and such, print an escape as stderr does, instead of failing.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # Many modules resolve paths against the working directory. In a removed one each would fail
        # with its own traceback.
        os.getcwd()
    except FileNotFoundError:
        print("nas: the working directory was removed. Fix: cd to one that exists", file=sys.stderr)
        sys.exit(2)
    raise_on_signals()
    try:
        code = app(prog_name="nas", standalone_mode=False) or 0
        # Newer versions of typer return 130 for any KeyboardInterrupt outside of a command, such as
        # one while options are read.
        if code == 130:
            _stopped(last_stop())
        sys.exit(code)
    except Elsewhere as error:
        sys.exit(error.exit_code)
    except NasError as error:
        print(f"nas: {printable(masked_text(str(error)))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        print(f"nas: {missing}", file=sys.stderr)
        sys.exit(missing.exit_code)
    except CommandStopped as stopped:
        _stopped(stopped.stop)
    except KeyboardInterrupt as stop:
        _stopped(stop if isinstance(stop, Stopped) else last_stop())
    except BrokenPipeError:
        # The reader of the pipe has closed it (`nas spaces | head`). Without another stdout Python
        # would fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is not None:
            # A folder that may not be entered, or a disk that fails: readers and writers raise
            # NasError for what they open, this is for what was only looked for.
            name = shortened(printable(masked_text(os.fsdecode(error.filename))), 300)
            wrong_name = error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
            fix = "give another name" if wrong_name else "check its permissions and its disk"
            print(f"nas: {name}: {error.strerror}. Fix: {fix}", file=sys.stderr)
            sys.exit(2 if wrong_name else 1)
        # An error without a file name means that the disk of stdout itself is full.
        if error.errno != errno.ENOSPC:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(
            f"nas: stdout: could not be written ({error.strerror}). Fix: make room on its disk",
            file=sys.stderr,
        )
        sys.exit(1)
    except MemoryError:
        print(
            "nas: memory ran out. Fix: close other programs, or give smaller images or batches",
            file=sys.stderr,
        )
        sys.exit(1)
    except Exception as error:
        # Usage errors are click's, and newer versions of typer carry their own copy of click. So
        # they are recognised by their methods instead of their class.
        if type(error).__name__ == "Abort":
            cause = error.__cause__ or error.__context__
            _stopped(cause if isinstance(cause, Stopped) else last_stop())
        if not hasattr(error, "format_message"):
            raise
        _usage(error)


def _warn(message: Warning | str, *place: object, **more: object) -> None:
    """Print a warning in one line on stderr, without the place in the code; once for all processes."""
    # torchrun and accelerate number the processes of a training.
    if os.environ.get("RANK", "0") == "0":
        text = " ".join(str(message).split())
        print(f"warning: {printable(masked_text(text))}", file=sys.stderr)


def _stopped(stop: Stopped) -> None:
    """Print which signal stopped the command and what is kept, and exit with the signal's code."""
    kept = f"; {stop.kept}. Resume: run the same command again" if stop.kept else ""
    # Of the processes of a torchrun only the first one prints.
    if os.environ.get("RANK", "0") == "0":
        print(printable(f"nas: stopped by {stop.number.name}{kept}"), file=sys.stderr)
    sys.exit(stop.exit_code)


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
        print(printable(f"nas: {masked_text(message)}{see}"), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
