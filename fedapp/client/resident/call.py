"""A message handed to the party's resident worker, which is started if there is none.

This side stays small: neither torch nor the config's machinery is loaded where a worker does the work.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from fedapp.client.resident.place import Place, stamp_of
from fedapp.client.resident.request import Answer, Request, Residence
from fedapp.core.files import ROOT
from fedapp.wire.frames import read_frame, write_frame
from fedapp.wire.messages import Failed

READY, RETIRED = b"+", b"-"
_ATTEMPTS, _PAUSE = 100, 0.1
logger = logging.getLogger("fedapp.party")


def answer(request: Request) -> Answer:
    """Answer a message: by a resident worker if the node has one, else here.

    Raises:
        Exception: What nobody expects, where nothing is guarded.
    """
    try:
        residence = Residence.of(request.node_config)
    except ValueError as error:
        logger.error("%s", error)
        text = "this party's node configuration cannot be used; its own log says why"
        return Answer(Failed(text).pack())
    if not residence.wanted:
        return _answer_here(request)
    try:
        worker = _Worker(request, residence)
        line = worker.meet()
    except OSError as error:
        logger.warning("no resident worker, this message loads its own model: %s", error)
        return _answer_here(request)
    with line:
        try:
            return _ask(line, request)
        except ConnectionError:
            return _failed(request, worker.end())


def receiver(line: socket.socket, size: int) -> bytes:
    """Exactly that many bytes of a line.

    Raises:
        ConnectionError: If it ends before.
    """
    content = bytearray(size)
    view, filled = memoryview(content), 0
    while filled < size:
        count = line.recv_into(view[filled:])
        if count == 0:
            raise ConnectionError("the other side ended")
        filled += count
    return bytes(content)


def _answer_here(request: Request) -> Answer:
    from fedapp.client.resident.work import answer as answered  # all that works on a message

    return answered(request)


def _ask(line: socket.socket, request: Request) -> Answer:
    """Send a message to a worker that waits for it; return its answer."""
    head = {
        "action": request.action,
        "run": request.run,
        "message-type": request.message_type,
        "node-config": dict(request.node_config),
    }
    write_frame(line.sendall, head, content=request.content, state=request.state)
    told, records = read_frame(lambda size: receiver(line, size))
    if "raised" in told:  # Flower shows it as it would have shown the error itself
        raise RuntimeError(str(told["raised"]))
    return Answer(records["content"], records["state"], bool(told["last"]))


def _failed(request: Request, how: str) -> Answer:
    """The answer to a message whose worker died: through the party, as every failure."""
    from fedapp.client.resident.work import fail

    return fail(request, f"the party's worker ended while it worked on this message{how}")


class _Worker:
    """The worker of a message's node."""

    def __init__(self, request: Request, residence: Residence) -> None:
        self.owner = os.getppid()
        self.place = Place.of(request.node_config, self.owner)
        self.stamp = stamp_of(request)
        self.idle = residence.idle_seconds
        self.process: subprocess.Popen[bytes] | None = None

    def meet(self) -> socket.socket:
        """A line to a worker that waits for this message.

        Raises:
            OSError: If there can be none.
        """
        for _ in range(_ATTEMPTS):
            with self.place.locked():
                line = self.place.connect() or self._start()
            try:
                line.sendall(self.stamp)
                said = receiver(line, 1)
            except ConnectionError:
                said = b""  # it left before it took the message
            if said == READY:
                return line
            line.close()
            if self.process is not None and said != RETIRED:
                raise OSError(f"it does not start{self.end()}")
            time.sleep(_PAUSE)
        raise OSError("one that is ending does not end")

    def end(self) -> str:
        """How the worker ended, as far as this process can know."""
        if self.process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        code = self.process.returncode
        if code is None:
            return ""
        return f" ({signal.Signals(-code).name})" if code < 0 else f" (exit code {code})"

    def _start(self) -> socket.socket:
        """Start a worker that listens; it keeps this process's output, and ends with the node."""
        with self.place.listen() as listener:
            words = [str(listener.fileno()), str(self.place.folder), str(self.owner), str(self.idle)]
            paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedapp.client.resident.worker", *words],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                pass_fds=[listener.fileno()],
            )
            line = self.place.connect()
        if line is None:
            raise OSError(f"{self.place.address} was taken away")
        return line
