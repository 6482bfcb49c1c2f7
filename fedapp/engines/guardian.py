"""A small process that outlives the command that runs a run, for as long as it takes to clean up.

A process that is killed (SIGKILL, the kernel's out-of-memory killer) can do nothing itself. This one sees
that its parent is gone, ends every process below itself and closes the run folder. On Linux it adopts the
orphans among its descendants, so none can hide from it. It starts in 20 ms as it imports the standard
library alone; it is a program: ``python -I -S guardian.py PARENT RUN_DIR HOME [COMMAND ...]``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LOOK_SECONDS = 0.1
KILL_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def guarded(run_dir: Path, home: Path | None, command: Sequence[str]) -> list[str]:
    """The command line of a guardian of this process.

    Args:
        run_dir: The run folder, to be closed if this process is killed.
        home: A folder to be removed then; None for none.
        command: What the guardian starts, and ends then with all that came of it; may be empty.

    Returns:
        The command alone on Windows, where there are no guardians.
    """
    if os.name != "posix":
        return list(command)
    words = [str(os.getpid()), str(run_dir), str(home or ""), *command]
    return [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *words]


@contextmanager
def closed_if_killed(run_dir: Path) -> Iterator[None]:
    """Have the run folder closed if this process is killed while the body runs."""
    guardian = None
    with suppress(OSError, IndexError):  # Without one the next command finds out that the run has died.
        guardian = subprocess.Popen(
            guarded(run_dir, None, ()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield
    finally:
        if guardian is not None:
            guardian.kill()
            guardian.wait()


def guard(parent: int, run_dir: Path, home: Path | None, command: Sequence[str]) -> int:
    """Run the command, if there is one, and see to it that nothing outlives the parent.

    Returns:
        The command's exit code, as a shell gives it; 0 if there was none.
    """
    child = _start(command) if command else None
    while os.getppid() == parent:
        ended = _reap(child)
        if ended is not None:
            return ended
        time.sleep(LOOK_SECONDS)
    with _closing(run_dir, f"fedapp run (process {parent}) was killed"):
        _end_all(child)
    if home is not None:
        shutil.rmtree(home, ignore_errors=True)
    return 128 + signal.SIGKILL


def _start(command: Sequence[str]) -> int:
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            if sys.platform == "linux":  # should this process be killed, too
                library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            os.execvpe(command[0], list(command), os.environ)
        except BaseException as error:
            print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)

    def forward(number: int, frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    signal.signal(signal.SIGTERM, forward)
    return child


def _reap(child: int | None) -> int | None:
    """Collect the exit codes of the dead, adopted ones too; return the command's if it is among them."""
    with suppress(ChildProcessError):
        while True:
            dead, status = os.waitpid(-1, os.WNOHANG)
            if dead == 0:
                break
            if dead == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
    return None


def _end_all(child: int | None) -> None:
    """Kill all descendants, until there are none: the orphan of one that is killed becomes our child."""
    deadline = time.monotonic() + KILL_SECONDS
    while child is not None and time.monotonic() < deadline:
        for process in _descendants() or [child]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if sys.platform != "linux":
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(LOOK_SECONDS / 5)


def _descendants() -> list[int]:
    """Processes below this one, out of /proc; empty where there is none."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The name, in brackets, may hold anything.
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {process for process, above in parents.items() if above in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


@contextmanager
def _closing(run_dir: Path, reason: str) -> Iterator[None]:
    """Close the run when the body has ended what writes to it."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from fedapp.core.status import DIED, is_held
    from fedapp.engines.closing import close_run, is_closed

    # A server that sees its clients go may say so before it goes, too.
    overrule = not is_closed(run_dir)
    yield
    if not is_held(run_dir):  # else somebody goes on with it already
        close_run(run_dir, reason, overrule=overrule, status=DIED)


if __name__ == "__main__":
    _parent, _run_dir, _home, *_command = sys.argv[1:]
    sys.exit(guard(int(_parent), Path(_run_dir), Path(_home) if _home else None, _command))
