"""The `nas` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line; what the user can mend is one line on stderr and exit code 1 or 2, never a traceback."""
    from nas.cli import app
    from nas.errors import NasError

    try:
        app(prog_name="nas")
    except NasError as error:
        print(f"nas: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nas: stopped; what was finished is on disk, the same command goes on from there", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
