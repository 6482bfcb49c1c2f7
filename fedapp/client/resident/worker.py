"""The resident worker itself: ``python -m fedapp.client.resident.worker FD FOLDER OWNER IDLE``.

Started by the first message of a run, with a socket that already listens. It ends when nobody asks
for a while, after the run's last message, when the machine is short of memory, when another run or
policy needs one, when the node ends, or with the process whose message it works on: then nobody waits
for the answer.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedapp.client.resident import work
from fedapp.client.resident.call import READY, RETIRED, receiver
from fedapp.client.resident.memory import Memories
from fedapp.client.resident.place import Place, require_same_user
from fedapp.client.resident.pressure import is_short_of_memory
from fedapp.client.resident.request import Answer, Request
from fedapp.core.errors import one_line
from fedapp.wire.frames import Records, read_frame, write_frame

LINGER_SECONDS = 10.0
"""How long it stays after a run's last message: a node may stand in for several clients."""
CHECK_SECONDS = 2.0
TRANSFER_SECONDS = 600.0
"""Longest pause of a caller that sends or takes bytes."""
STAMP_BYTES = 32
logger = logging.getLogger("fedapp.party")


class Worker:
    """Takes messages one after the other.

    Args:
        listener: Where they arrive.
        place: Where the socket lies.
        owner: File that becomes readable when the node has ended.
        idle_seconds: Until it ends without work.
    """

    def __init__(self, listener: socket.socket, place: Place, owner: int, idle_seconds: float) -> None:
        self.listener = listener
        self.place = place
        self.owner = owner
        self.idle_seconds = idle_seconds
        self.stamp = b""
        self.memories = Memories()

    def run(self) -> None:
        """Work until there is a reason to end."""
        until = time.monotonic() + self.idle_seconds
        watched: list[Any] = [self.listener, self.owner]
        while True:
            ready, _, _ = select.select(watched, [], [], CHECK_SECONDS)
            if self.owner in ready:
                break
            if self.listener in ready:
                line, _ = self.listener.accept()
                with line:
                    last = self._take(line)
                if last is None:
                    break
                until = time.monotonic() + (
                    min(LINGER_SECONDS, self.idle_seconds) if last else self.idle_seconds
                )
            elif time.monotonic() > until or is_short_of_memory():
                break
        self._leave()

    def _take(self, line: socket.socket) -> bool | None:
        """Take a caller's message; whether it was a run's last, None if this worker is another run's."""
        try:
            line.settimeout(TRANSFER_SECONDS)
            require_same_user(line)
            stamp = receiver(line, STAMP_BYTES)
            self.stamp = self.stamp or stamp
            if stamp != self.stamp:
                line.sendall(RETIRED)
                return None
            line.sendall(READY)
            return self._serve(line)
        except OSError as error:
            logger.warning("a caller of the resident worker is gone: %s", error)
            return False

    def _serve(self, line: socket.socket) -> bool:
        head, records = read_frame(lambda size: receiver(line, size))
        request = Request(
            head["action"],
            head["run"],
            head["message-type"],
            head["node-config"],
            records["content"],
            records["state"],
        )
        try:
            with _abandoned_with(line, self.owner):
                answer, raised = work.answer(request, self.memories), {}
        except Exception as error:
            logger.exception("a message failed")
            answer, raised = Answer(Records()), {"raised": one_line(error)}
        head = {"last": answer.last, **raised}
        write_frame(line.sendall, head, content=answer.content, state=answer.state)
        return answer.last

    def _leave(self) -> None:
        """Stop to listen; whoever has just called notices, and starts another."""
        with self.place.locked():
            self.place.clear()
            self.listener.close()


@contextmanager
def _abandoned_with(line: socket.socket, owner: int) -> Iterator[None]:
    """End this process if the caller or the node ends before the work is done."""
    stop = os.eventfd(0)

    def watch() -> None:
        gone = select.poll()
        gone.register(line, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        gone.register(owner, select.POLLIN)
        gone.register(stop, select.POLLIN)
        found = {number for number, _ in gone.poll()}
        if stop not in found:
            os._exit(3)  # nothing here is worth a clean end, and training cannot be interrupted

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        os.close(stop)


def main(words: list[str]) -> None:
    """Run a worker.

    Args:
        words: Number of the listening socket, the place's folder, the node's process, seconds without work.
    """
    number, folder, owner, idle = words
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the whole node, without a traceback
    try:
        watched = os.pidfd_open(int(owner))
    except ProcessLookupError:
        return
    Worker(socket.socket(fileno=int(number)), Place(Path(folder)), watched, float(idle)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
