"""A server app whose SuperLink was killed, and what becomes of it when its run is to go on.

It waits for its SuperLink and holds its run's folder for as long as it waits. A SuperLink that is started
again on its database within a minute takes it back, and the run goes on by itself; a later one turns it away
with its next heartbeat. Seen with flwr 1.42.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedapp.core.status import is_held, read_status

SERVER_APP, LAUNCHER = "flwr-serverapp", "flower-superexec"
"""Flower's names of a server app's process, and of the one that starts it and ends with its SuperLink."""
ADDRESS = "--runtime-api-address"
LEAVE_SECONDS = 45.0
"""How long a SuperLink that answers is given to turn away a server app: longer than between heartbeats."""
END_SECONDS = 10.0
LOOK_SECONDS = 0.2
_PROC = Path("/proc")


@dataclass(frozen=True)
class Holder:
    """A process that holds a run's folder.

    Attributes:
        pid: Its number.
        words: Its command line.
        parent: The command line of its parent.
    """

    pid: int
    words: tuple[str, ...]
    parent: tuple[str, ...]

    @property
    def is_orphan(self) -> bool:
        """Whether it is a server app whose launcher has gone."""
        return _is(self.words, SERVER_APP) and not _is(self.parent, LAUNCHER)

    def __str__(self) -> str:
        names = [Path(word).name for word in self.words[:2]]
        name = next((name for name in names if not name.startswith(("python", "-"))), "python")
        return f"process {self.pid} ({name})"


def free(run_dir: Path, say: Callable[[str], None]) -> str:
    """Have a server app that its SuperLink left behind let go of its run's folder.

    Where its SuperLink's address answers it is waited for, as it ends by itself unless it was taken back;
    else it is ended.

    Args:
        run_dir: A run's folder that somebody holds.
        say: Told what was ended.

    Returns:
        Who still works on the run, in one line; empty if nobody does.
    """
    for holder in _holders(run_dir):
        if not holder.is_orphan:
            continue
        deadline = time.monotonic() + LEAVE_SECONDS
        while _answers(holder.words) and is_held(run_dir) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        if is_held(run_dir) and not _answers(holder.words) and _end(holder, run_dir):
            say(f"ended {holder}, which its SuperLink had left behind at this run")
    if not is_held(run_dir):
        return ""
    said = read_status(run_dir).get("pid")  # of another user, or on another machine
    left = [str(holder) for holder in _holders(run_dir)] or [f"process {said}" if said else "somebody"]
    return f"{' and '.join(left)} is still at work on this run"


def _holders(run_dir: Path) -> Iterator[Holder]:
    """Processes of this machine that have locked the folder; those that this user may look at."""
    target = str(run_dir.resolve())
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if int(process.name) != os.getpid() and _has_locked(process, target):
                yield Holder(int(process.name), _words(process), _words(_PROC / _parent(process)))


def _has_locked(process: Path, target: str) -> bool:
    for file in (process / "fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(file) == target and "FLOCK" in (process / "fdinfo" / file.name).read_text():
                return True
    return False


def _words(process: Path) -> tuple[str, ...]:
    return tuple((process / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])


def _parent(process: Path) -> str:
    # The name, in brackets, may hold anything.
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]


def _is(words: tuple[str, ...], program: str) -> bool:
    """Whether a command line is a program's, started by its name or by Python."""
    return any(Path(word).name == program for word in words[:2])


def _answers(words: tuple[str, ...]) -> bool:
    """Whether anybody listens at the address of a server app's SuperLink."""
    address = next((after for word, after in itertools.pairwise(words) if word == ADDRESS), "")
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError), socket.create_connection((host.strip("[]"), int(port)), 2.0):
        return True
    return False


def _end(holder: Holder, run_dir: Path) -> bool:
    """End a process, if it is still the one that was seen; whether its run's folder is free then."""
    try:
        process = os.pidfd_open(holder.pid)
    except OSError:
        return False
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if _words(_PROC / str(holder.pid)) != holder.words:
                break  # the number may be another process's by now
            signal.pidfd_send_signal(process, number)
            deadline = time.monotonic() + END_SECONDS
            while is_held(run_dir) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
            if not is_held(run_dir):
                return True
    except OSError:
        pass  # it has ended, or is another user's
    finally:
        os.close(process)
    return not is_held(run_dir)
