"""The command `python run.py` of a bundle."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .errors import BundleError
from .measuring import run_litert


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure the files of this bundle. The same command resumes a stopped run."
    )
    parser.add_argument(
        "--threads", type=int, help="CPU threads (default: as many as the bundle was written for)."
    )
    threads = parser.parse_args().threads
    begin = time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        left = (time.monotonic() - begin) / max(done, 1) * (total - done)
        print(
            f"\r{what} {done}/{total}, {left / 60:.0f} min left   ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    folder = Path(__file__).resolve().parents[1]
    try:
        counts = run_litert(folder, progress, threads)
    except BundleError as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nrun.py: stopped. All results are on disk, and the same command resumes.")
    print(
        "\n{files} files: {measured} measured now, {reused} before, {failed} cannot run".format(
            **counts
        )
    )
    if counts["interrupted"]:
        sys.exit(
            "run.py: {interrupted} files were interrupted. The same command measures them.".format(
                **counts
            )
        )
    print("next: take this folder home, and run there: nas profile --merge FOLDER")


if __name__ == "__main__":
    main()
