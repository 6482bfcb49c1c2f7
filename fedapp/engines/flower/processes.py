"""Start programs so that they and all they start can be found and ended again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

MARK = "FEDAPP_PROCESS_MARK"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class ProcessTree:
    """Programs that carry one mark in their environment, with all their descendants.

    On Linux the orphans among them become children of this process, which is how none can hide
    or stay behind as a zombie.

    Args:
        environment: Environment of every program started; the mark is added.
        folder: Working folder of every program started.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self.mark = secrets.token_hex(16)
        self.environment = {**environment, MARK: self.mark}
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._seen: set[psutil.Process] = set()
        _adopt_orphans(True)

    def start(
        self, command: Sequence[str], output: IO[bytes] | int, *, die_with_us: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start a program in its own session.

        Args:
            command: Program and arguments.
            output: Receives standard output and standard error.
            die_with_us: Have the kernel ask it to end if this process dies (Linux).
        """
        process = subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent if die_with_us and sys.platform == "linux" else None,
        )
        self._started.append(process)
        return process

    def call(self, command: Sequence[str], timeout: float) -> tuple[int, str]:
        """Run a program to its end.

        Returns:
            Exit code and everything it printed.

        Raises:
            subprocess.TimeoutExpired: If it takes more than ``timeout`` seconds; it is ended.
        """
        # A file, as a pipe would stay open for as long as any program behind this one lives.
        with tempfile.TemporaryFile() as output:
            process = self.start(command, output)
            try:
                process.wait(timeout)
            except BaseException:
                process.kill()
                process.wait()
                raise
            finally:
                self._started.remove(process)
            output.seek(0)
            return process.returncode, output.read().decode(errors="replace")

    def members(self) -> list[psutil.Process]:
        """Live processes of this tree; whoever was found once is remembered."""
        found = {process for process in psutil.process_iter() if self._is_marked(process)}
        # Ray's workers overwrite their environment; then only their parents tell.
        for process in found | self._orphans():
            with contextlib.suppress(psutil.Error):
                found |= {process, *process.children(recursive=True)}
        self._seen |= found
        return [process for process in self._seen if _is_alive(process)]

    def end(self, grace: float = 5.0) -> None:
        """End every process of the tree: ask, wait up to ``grace`` seconds, then kill."""
        self.members()
        _signal(filter(None, map(_process_of, self._started)), signal.SIGTERM)
        if not self._wait(grace / 2):
            _signal(self.members(), signal.SIGTERM)
            self._wait(grace / 2)
        deadline = time.monotonic() + grace
        while self.members() and time.monotonic() < deadline:
            _signal(self.members(), signal.SIGKILL)
            self._wait(0.5)
        self._started.clear()
        _adopt_orphans(False)

    def _wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            alive = self.members()
            self._reap()
            if not alive and not self._orphans():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)

    def _reap(self) -> None:
        """Collect the exit codes of dead children, those that we inherited included."""
        for process in self._started:
            process.poll()
        for orphan in self._orphans():
            with contextlib.suppress(ChildProcessError, psutil.Error):
                if orphan.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(orphan.pid, os.WNOHANG)

    def _orphans(self) -> set[psutil.Process]:
        """Children of this process that it did not start: they live in the sessions of those it did."""
        own = {process.pid for process in self._started}
        orphans = set()
        for child in psutil.Process().children():
            with contextlib.suppress(OSError):
                if child.pid not in own and os.getsid(child.pid) != os.getsid(0):
                    orphans.add(child)
        return orphans

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except (psutil.Error, OSError):
            return False


def find_program(name: str) -> str:
    """Absolute path of a program that is installed beside this Python.

    Raises:
        FileNotFoundError: If it is not there.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise FileNotFoundError(f"{name} is not installed beside {sys.executable}")
    return str(path)


def listens(process: psutil.Process, port: int) -> bool:
    """Whether this very process listens on the local port, and not a stranger."""
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _process_of(process: subprocess.Popen[bytes]) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(process.pid) if process.poll() is None else None
    return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _prctl() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return lambda option, value: int(library.prctl(option, value, 0, 0, 0))


_PRCTL = _prctl()


def _adopt_orphans(adopt: bool) -> None:
    if _PRCTL is not None:
        _PRCTL(_PR_SET_CHILD_SUBREAPER, int(adopt))


def _die_with_parent() -> None:
    assert _PRCTL is not None
    _PRCTL(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
