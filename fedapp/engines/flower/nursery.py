"""Processes for messages, forked from one that has Flower imported; it imports nothing of fedapp.

The app that a run brings must be the first ``fedapp`` that a message's process sees.

    nursery.py FD OWNER                 fork what is asked for on a socket, until OWNER ends
    nursery.py ask SOCKET PROGRAM ...   ask for PROGRAM with these arguments; run it itself if nobody hears
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

MOST = 2**16


def ask(address: str, program: str, words: list[str]) -> None:
    """Have a process forked that has this one's arguments, folder and output; else become the program."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(address)
            socket.send_fds(line, [json.dumps([os.getcwd(), words]).encode()], [0, 1, 2])
            if line.recv(1) == b"+":
                return
    except OSError:
        pass  # the program itself is as good, only slower
    os.execv(program, [program, *words])


def serve(listener: socket.socket, owner: int) -> None:
    """Fork until the owner ends, a process that becomes readable then."""
    import select

    from flwr.supernode.cli import flwr_clientapp as program

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the node's, which ends this one
    while True:
        ready, _, _ = select.select([listener.fileno(), owner], [], [])
        if owner in ready:
            return
        line, _ = listener.accept()
        with line:
            content, files, _, _ = socket.recv_fds(line, MOST, 3)
            try:
                folder, words = json.loads(content)
            except ValueError:
                continue  # cut short; whoever asked runs the program itself
            if os.fork() == 0:
                listener.close()
                _become(program, folder, words, files, line)
            for file in files:
                os.close(file)


def _clear(folder: str) -> None:
    """Remove what the node made for this process: one that was killed could not do it."""
    try:
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)
    except OSError:
        pass  # the node itself was quicker


def _become(
    program: Callable[[], None], folder: str, words: list[str], files: list[int], line: socket.socket
) -> NoReturn:
    """Be the program, in a process of its own."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        for target, file in enumerate(files):
            os.dup2(file, target)
        line.sendall(b"+")
        line.close()
        sys.argv = ["flwr-clientapp", *words]
        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(words: list[str]) -> None:
    """Ask, or fork for those who ask."""
    if words[0] == "ask":
        ask(words[1], words[2], words[3:])
        return
    listener = socket.socket(fileno=int(words[0]))
    try:
        owner = os.pidfd_open(int(words[1]))
    except ProcessLookupError:
        pass  # it has ended already
    else:
        serve(listener, owner)
    _clear(os.path.dirname(listener.getsockname()))


if __name__ == "__main__":
    main(sys.argv[1:])
