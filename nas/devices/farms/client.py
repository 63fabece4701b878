"""Talk to the worker of a farm, a process in an environment of its own; `batch` calls it."""

from __future__ import annotations

import json
import subprocess
from types import TracebackType
from typing import Any

from nas.devices.farms import WORKERS, Entry, Farm, OverQuota
from nas.errors import InputError, NasError


class Gone(NasError):
    """A job that the service no longer has."""


class Unreachable(NasError):
    """A service that does not answer; the same command resumes later."""


class Refused(NasError):
    """A request that the service refused for a reason of its own, as a file that it cannot take."""


class Client:
    """The worker of a farm, from its start to the end of the context.

    Args:
        farm: whose worker is started.

    Raises:
        InputError: when the environment with the client library is missing.
    """

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        # -I: neither PYTHONPATH nor the working directory of nas leaks into that environment.
        command = [farm.python(), "-I", str(WORKERS / "loop.py"), str(WORKERS / farm.worker)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What a client library prints there is for people, and would tear the progress bar.
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            # Ctrl-C reaches nas alone, which ends the worker after the request at hand.
            start_new_session=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **given: Any) -> Entry:
        """Return the answer of the worker.

        Raises:
            InputError: when the client library is missing or the service does not know the user.
            OverQuota, Unreachable, Gone, Refused: as the service answers.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, "with": given}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Unreachable(
                f"--through {self.farm.name}: the worker ended (exit code"
                f" {self._process.wait()}). Fix: run the same command again"
            )
        reply: Entry = json.loads(line)
        if "error" in reply:
            raise self._error(reply["error"])
        answer: Entry = reply["answer"]
        return answer

    def _error(self, error: Entry) -> NasError:
        """Return the error of an answer, by its kind."""
        farm = self.farm
        message = error["message"]
        where = f"--through {farm.name}"
        if error["kind"] == "missing":
            return InputError(
                f"{where}: the client library does not start ({message}). Fix: install"
                f" {farm.requirement} there, or set {farm.variable} to a Python that has it"
            )
        if error["kind"] == "account":
            return InputError(
                f"{where}: {farm.title} does not accept the account ({message}). Fix:"
                f" {farm.account}"
            )
        if error["kind"] == "quota":
            return OverQuota(
                f"{where}: {farm.title} takes no more jobs now ({message}). What was submitted goes"
                " on. Fix: run the same command again later"
            )
        if error["kind"] == "unreachable":
            return Unreachable(
                f"{where}: {farm.title} does not answer ({message}). Jobs and results are kept."
                " Fix: run the same command again"
            )
        if error["kind"] == "gone":
            return Gone(f"{where}: {message}")
        return Refused(f"{where}: {farm.title} refused it ({message})")
