"""What keeps a program up: when it is started again, after how long, and when that is of no use."""

from __future__ import annotations

import signal
import socket
import sys

import pytest

from fedapp.site import supervisor
from fedapp.site.supervisor import (
    REFUSED,
    Program,
    Waits,
    describe_end,
    explain,
    is_taken,
    keep_up,
    until_told_to_end,
)

STRANGER = """\x1b[91mERROR \x1b[0m:     Exit Code: 305
Failed to initialize the connection to the SuperLink.
[code: 2004] Failed to activate SuperNode.
The SuperNode could not establish a connection to the SuperLink.
OSError: Signal 15 ignored due to race condition
"""


class Ends:
    """A program that ends as told, each time; out of ends it is one that has no use."""

    def __init__(self, *codes):
        self.codes = list(codes)
        self.runs = 0

    def __call__(self):
        self.runs += 1
        return (self.codes.pop(0), "so") if self.codes else (302, "no key")


def kept_up(*codes, waits=supervisor.WAITS):
    said, slept, program = [], [], Ends(*codes)
    end = keep_up("it", program, said.append, waits, slept.append)
    return program.runs, slept, said, end


def test_a_crash_is_waited_for_ever_longer_up_to_a_bound():
    runs, slept, said, end = kept_up(1, 1, 1, 1, waits=Waits(first=1, longest=5))
    assert (runs, slept) == (5, [1, 2, 4, 5])
    assert said[0] == "it ended with exit code 1: so; trying again in 1 s"
    assert end == "it cannot run: the party's key cannot be used (no key)"


def test_a_node_that_is_not_let_in_is_tried_at_one_pace():
    runs, slept, said, _ = kept_up(REFUSED, REFUSED, REFUSED, waits=Waits(refused=5))
    assert (runs, slept) == (4, [5, 5, 5])
    assert "was not let in by the server (Flower's exit code 305): so" in said[0]


def test_a_program_that_ran_for_long_begins_anew():
    _, slept, *_ = kept_up(1, 1, 1, waits=Waits(first=1, longest=60, steady=0))
    assert slept == [1, 1, 1]


def test_flowers_number_stands_in_the_log_as_a_process_cannot_return_it():
    assert explain(1, STRANGER) == (305, "Failed to activate SuperNode")
    assert explain(-9, "ordinary words") == (-9, "")
    assert explain(1, "ERROR: [Errno 98] error while attempting to bind\n")[1].startswith("[Errno 98]")
    assert explain(1, "Traceback\n  x\nssl.SSLError: no\n") == (1, "SSLError: no")
    assert describe_end(-9) == "was ended by SIGKILL"


def test_a_program_is_explained_by_what_it_printed_this_time(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "find_program", lambda name: sys.executable)
    log = tmp_path / "log"
    log.write_text("Exit Code: 305\n")
    program = Program(["python", "-c", "raise ValueError('now')"], {}, tmp_path, log)
    try:
        program.start()
        assert program.wait() == 1
    finally:
        program.end()
    assert explain(1, program.last_words()) == (1, "ValueError: now")


def test_a_port_is_taken_if_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert is_taken("127.0.0.1", port)
        assert is_taken("0.0.0.0", port)
    assert not is_taken("127.0.0.1", port)


@pytest.mark.parametrize("code", sorted(supervisor.FINAL))
def test_where_another_start_is_of_no_use_there_is_none(code):
    assert kept_up(code)[0] == 1


def test_a_signal_ends_the_work_and_one_that_nohup_ignores_does_not():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    done = []
    try:
        with until_told_to_end():
            signal.raise_signal(signal.SIGHUP)
            done.append("after SIGHUP")
            signal.raise_signal(signal.SIGTERM)
            done.append("after SIGTERM")
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert done == ["after SIGHUP"]
