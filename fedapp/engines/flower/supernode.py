"""A SuperNode without waits: ``python -m fedapp.engines.flower.supernode``.

It is Flower's own SuperNode and takes the arguments of ``flower-supernode``. Three things are quicker:
it looks for messages sooner after it had one, its SuperExec looks for tasks more often, and a message's
process is forked from one that has Flower imported (``nursery.py``) where plain Flower starts a new
Python. Flower's private names are those of ``start_client_internal``; look here on upgrade.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

TASK_POLL_VARIABLE = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
TASK_POLL_SECONDS = 0.2
PROGRAM = "flwr-clientapp"
NURSERY = Path(__file__).with_name("nursery.py")


class Pace:
    """How long a SuperNode sleeps where Flower's sleeps for 3 s without a message and 0.5 s without a reply.

    Without a message it looks again after ``share`` of the time that it has waited already: what waiting
    adds to a round is a share of the round, and a party that nobody asks is as quiet as Flower's.

    Attributes:
        share: Of the time waited, a fraction.
        least: Shortest sleep, in seconds; asked locally, it is the longest as well.
    """

    def __init__(
        self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Replace ``sleep``; time is told by ``clock``, in seconds."""
        self.share, self.least = 0.05, 0.1
        self._sleep, self._clock = sleep, clock
        self._since = clock()

    def sleep(self, seconds: float) -> None:
        """Sleep for as long as makes sense, ``seconds`` at most."""
        if seconds < 1:  # a message is worked on here: looking costs no network
            self._since = self._clock()
            self._sleep(min(seconds, self.least))
            return
        self._sleep(min(seconds, max(self.least, self.share * (self._clock() - self._since))))


@contextmanager
def forked_clientapps() -> Iterator[None]:
    """Let what is started as ``flwr-clientapp`` be forked; without that it is started as ever."""
    real = shutil.which(PROGRAM)
    if sys.platform != "linux" or real is None:
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="fedapp-node-"))  # mode 0700
    try:
        address = folder / "socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen()
            words = [str(listener.fileno()), str(os.getpid())]
            nursery = subprocess.Popen(
                [sys.executable, "-P", str(NURSERY), *words],
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
            )
        call = shlex.join([sys.executable, "-ISP", str(NURSERY), "ask", str(address), real])
        program = folder / PROGRAM
        program.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        program.chmod(0o700)
        os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
        try:
            yield
        finally:
            nursery.terminate()
            with suppress(subprocess.TimeoutExpired):
                nursery.wait(5)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Run a SuperNode with the arguments of the command line."""
    os.environ.setdefault(TASK_POLL_VARIABLE, str(TASK_POLL_SECONDS))
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ.get("PATH", "").split(os.pathsep):  # Flower finds its programs by name
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])
    sys.argv[0] = "flower-supernode"
    with forked_clientapps():
        from flwr.supernode import start_client_internal as node
        from flwr.supernode.cli import flower_supernode

        if sleeps_as_known(Path(node.__file__).read_text(encoding="utf-8")):
            vars(node)["time"] = SimpleNamespace(**{**vars(time), "sleep": Pace().sleep})
        else:
            print(
                "fedapp: this Flower's SuperNode waits in its own way, up to 3 s a message", file=sys.stderr
            )
        flower_supernode()


def sleeps_as_known(source: str) -> bool:
    """Whether a SuperNode waits in the way that ``Pace`` shortens.

    Args:
        source: Of Flower's ``start_client_internal``.
    """
    found = re.findall(r"\btime\.(\w+)\(([^)]*)\)", source)
    return {name for name, _ in found} == {"sleep"} and {seconds for _, seconds in found} == {"3", "0.5"}


if __name__ == "__main__":
    main()
