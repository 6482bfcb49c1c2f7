"""Keep one of Flower's programs up: start it, wait for its end, start it again where that can help."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fedapp.core.errors import one_line
from fedapp.core.files import writing
from fedapp.engines.closing import ENDING
from fedapp.engines.flower.processes import ProcessTree, find_program

Say = Callable[[str], None]

REFUSED = 305
"""A SuperNode that the SuperLink does not let in: its key is unknown, or counts as connected still."""
FINAL: Mapping[int, str] = {
    104: "Flower does not accept its arguments",
    105: "its database is another Flower version's",
    302: "the party's key cannot be used",
    304: "the file of trusted entities cannot be used",
    600: "the address cannot be used",
    603: "the root certificate cannot be used",
    604: "a file is missing",
    605: "the server's certificate cannot be used",
}
"""Ends after which another start ends the same way."""
TAIL_BYTES = 20_000
REASONS = (r"^\[code: \d+\] (.+)", r"(\[Errno \d+\].+)", r"^(?:\w+\.)*(\w*(?:Error|Exception): .+)")
"""Lines of a log that tell why its program ended, the most telling first."""


@dataclass(frozen=True)
class Waits:
    """How long to wait before the next start, in seconds.

    Attributes:
        first: After the first end; every further one doubles it.
        longest: At most.
        refused: After a SuperNode was not let in: Flower counts a node that was killed as connected
            for up to a minute.
        steady: A program that ran this long begins anew.
    """

    first: float = 1.0
    longest: float = 60.0
    refused: float = 5.0
    steady: float = 60.0

    def after(self, code: int, failures: int) -> float:
        """Seconds to wait after an end.

        Args:
            code: Exit code.
            failures: Ends before this one that followed one another quickly.
        """
        return self.refused if code == REFUSED else min(self.first * 2.0**failures, self.longest)


WAITS = Waits()


class Program:
    """A program of Flower's with all that it starts.

    Args:
        command: Its name and arguments.
        environment: Variables.
        folder: Working folder.
        log: File that takes what it prints; opened to append.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.log = log
        self._command = [find_program(command[0]), *command[1:]]
        self._tree = ProcessTree(environment, folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = log.stat().st_size if log.exists() else 0

    def start(self) -> None:
        """Start it.

        Raises:
            WriteError: If there can be no log.
        """
        with writing(self.log), self.log.open("ab") as log:
            self._process = self._tree.start(self._command, log)

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code; None if it still runs after ``timeout`` seconds (None: wait for its end)."""
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def end(self) -> None:
        """End it and all that it started."""
        self._tree.end()

    def last_words(self) -> str:
        """What it printed last."""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace")
        return ""


def explain(code: int, log: str) -> tuple[int, str]:
    """Why a program ended.

    Flower numbers its exit codes beyond what a process can return: the number stands in the log.

    Args:
        code: What the process returned.
        log: What it printed last.

    Returns:
        Flower's number, else the process's; and the line of the log that tells the reason, if one does.
    """
    number = re.findall(r"Exit Code: (\d+)", log)
    found = next((lines for pattern in REASONS if (lines := re.findall(pattern, log, re.MULTILINE))), [""])
    return int(number[-1]) if number and code > 0 else code, one_line(found[-1], 300).rstrip(".")


def keep_up(
    what: str,
    run: Callable[[], tuple[int, str]],
    say: Say,
    waits: Waits = WAITS,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Run a program again and again, until it ends in a way that will not change.

    Args:
        what: What it is, in messages.
        run: Starts it and waits for its end; its exit code and why it ended.
        say: Called with one line for each end.
        waits: Between the starts.
        sleep: Waits.

    Returns:
        Why it cannot go on.
    """
    failures = 0
    while True:
        begin = time.monotonic()
        code, reason = run()
        if code in FINAL:
            return f"{what} cannot run: {FINAL[code]}{f' ({reason})' if reason else ''}"
        if time.monotonic() - begin >= waits.steady:
            failures = 0
        wait = waits.after(code, failures)
        failures += 1
        say(f"{what} {describe_end(code)}{f': {reason}' if reason else ''}; trying again in {wait:g} s")
        sleep(wait)


def describe_end(code: int) -> str:
    """An exit code in words."""
    if code == REFUSED:
        return "was not let in by the server (Flower's exit code 305)"
    with suppress(ValueError):
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


@contextmanager
def until_told_to_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the body as Ctrl-C does, quietly: that is how such a program ends."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # Under nohup SIGHUP is ignored, and stays so.
    numbers = [one for one in ENDING if one is signal.SIGTERM or signal.getsignal(one) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, interrupt)) for number in numbers]
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_taken(host: str, port: int) -> bool:
    """Whether a program listens on a port already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False
