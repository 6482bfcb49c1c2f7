"""The resident worker: same results, one loading per run, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest
from flwr.app import ConfigRecord, RecordDict

from fedapp.client import workplace as workplaces
from fedapp.client.resident import call, pressure
from fedapp.client.resident.place import Place, require_same_user, stamp_of
from fedapp.client.resident.request import Request, Residence
from fedapp.config.compose import load_config
from fedapp.core.files import OPEN, POLICY_VARIABLE
from fedapp.core.payload import Payload
from fedapp.wire.frames import read_frame, write_frame
from fedapp.wire.messages import Work
from fedapp.wire.records import Envelope, pack, unpack
from tests.federation import TOY, run_toy

NOTHING = "the message has no 'fedapp-message' record"
"""What a message without content is answered."""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers stay on Linux alone")


@pytest.fixture
def node(monkeypatch):
    """Be a process that Flower starts for a message; yields the process of the node."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setattr(sys, "argv", ["/somewhere/flwr-clientapp"])
    owner = subprocess.Popen(["sleep", "600"])
    monkeypatch.setattr(call.os, "getppid", lambda: owner.pid)
    yield owner
    owner.kill()
    owner.wait()
    for worker in workers():
        with_end(worker)
    shutil.rmtree(folder)


def workers():
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "fedapp.client.resident.worker" in child.cmdline()
    ]


def with_end(worker, seconds=10):
    """Wait until a worker has ended; the test fails if it does not."""
    try:
        return worker.wait(seconds)
    except psutil.TimeoutExpired:
        worker.kill()
        raise


def message(action="join", run=1, content=None, **node_config):
    """A message; by default one that says nothing, which needs no data set to be answered."""
    node_config = {"partition-id": 0, "policy": OPEN, **node_config}
    return Request(action, run, "train", node_config, content or RecordDict(), RecordDict())


def work(phase="train", final=False, server_round=1):
    config = load_config([*TOY, "num_clients=1"]).to_json()
    asked_last = server_round - 1 or None
    return Work(config, 0, server_round, phase, None, final, asked_last=asked_last).pack()


def facts(answer):
    return unpack(answer.content).facts


def test_with_workers_and_without_them_a_run_has_the_same_bits(tmp_path, request):
    words = ["method=fedreft", "num_clients=2", "num_rounds=3"]
    without = run_toy(tmp_path / "without", *words, num_nodes=2)
    request.getfixturevalue("node")
    with_workers = run_toy(tmp_path / "with", *words, num_nodes=2)
    assert len(workers()) == 2  # one for each node, for all of its messages
    assert workplaces._current is None  # nothing was worked on here
    assert with_workers.adapters() == without.adapters()
    assert with_workers.rows("metrics") == without.rows("metrics")


def test_memory_comes_back_and_the_last_message_is_known(node):
    first = call.answer(message("serve", content=work()))
    assert sorted(first.state) == ["client-0-arrays", "client-0-message"]
    (worker,) = workers()
    again = call.answer(message("serve", content=work()))
    assert facts(again)["metrics"] == facts(first)["metrics"]  # it remembers nothing by itself
    assert workers() == [worker]
    last = call.answer(message("serve", content=work("evaluate", final=True)))
    assert (first.last, last.last) == (False, True)
    assert last.state == RecordDict()


def test_a_worker_goes_on_from_what_flower_has_not_stored_yet(node):
    first = call.answer(message("serve", content=work()))
    call.answer(replace(message("serve", content=work(server_round=2)), state=first.state))
    third = replace(message("serve", content=work(server_round=3)), state=first.state)
    assert facts(call.answer(third))["remembers"] == 2
    (worker,) = workers()
    worker.kill()
    worker.wait()
    assert facts(call.answer(third))["remembers"] == 1  # another process has what Flower gives it


def test_another_run_has_another_worker(node):
    call.answer(message())
    (worker,) = workers()
    assert facts(call.answer(message(run=2)))["failure"] == NOTHING
    with_end(worker)
    assert len(workers()) == 1


def test_another_policy_has_another_worker(tmp_path, monkeypatch):
    policy = tmp_path / "party.yaml"
    policy.write_text("network: false\n")
    before = stamp_of(message(policy=str(policy)))
    assert before == stamp_of(message(policy=str(policy)))
    policy.write_text("network: true\n\n")
    assert stamp_of(message(policy=str(policy))) != before
    monkeypatch.setenv(POLICY_VARIABLE, str(policy))
    assert stamp_of(message(policy="")) != stamp_of(message(policy=OPEN))


def test_a_worker_that_dies_at_work_is_a_failed_message_and_the_next_one_is_served(node):
    place = Place.of(message().node_config, node.pid)

    def die(listener):
        line, _ = listener.accept()
        call.receiver(line, 32)
        line.sendall(call.READY)
        read_frame(lambda size: call.receiver(line, size))
        listener.close()
        line.close()

    thread = threading.Thread(target=die, args=[place.listen()])
    thread.start()
    failed = call.answer(message())
    thread.join()
    assert facts(failed)["failure"] == "the party's worker ended while it worked on this message"
    assert failed.state == RecordDict()
    assert facts(call.answer(message()))["failure"] == NOTHING


def test_one_that_dies_before_it_takes_a_message_is_replaced(node):
    call.answer(message())
    (worker,) = workers()
    worker.suspend()
    threading.Timer(0.3, worker.kill).start()
    assert facts(call.answer(message()))["failure"] == NOTHING
    assert len([one for one in workers() if one != worker]) == 1


@pytest.mark.parametrize("why", ["idle", "node"])
def test_a_worker_ends_when_nobody_asks_and_with_its_node(node, why):
    call.answer(message(**{"resident-idle": 0.2 if why == "idle" else 600}))
    (worker,) = workers()
    if why == "node":
        node.kill()
        node.wait()
    assert with_end(worker) == 0


def test_one_whose_caller_is_gone_ends_in_the_middle_of_its_work(node, tmp_path):
    fifo = tmp_path / "policy"
    os.mkfifo(fifo)  # to read it takes until somebody writes
    asked = message(policy=str(fifo))
    line = call._Worker(asked, Residence(True)).meet()
    head = {"action": "join", "run": 1, "message-type": "query", "node-config": dict(asked.node_config)}
    write_frame(line.sendall, head, content=asked.content, state=asked.state)
    (worker,) = workers()
    time.sleep(0.5)
    assert workers() == [worker]
    line.close()
    assert with_end(worker) == 3


def test_where_there_is_no_private_place_the_work_is_done_here(node, caplog, monkeypatch):
    open_to_others = Path(os.environ["XDG_RUNTIME_DIR"]) / "fedapp"
    open_to_others.mkdir(mode=0o755)
    assert facts(call.answer(message()))["failure"] == NOTHING
    assert workers() == []
    assert f"{open_to_others} must be a folder of this user, with mode 0700" in caplog.text


def test_the_socket_is_its_users_alone(node, monkeypatch):
    call.answer(message())
    place = Place.of(message().node_config, node.pid)
    assert place.folder.stat().st_mode & 0o777 == 0o700
    assert place.address.stat().st_mode & 0o777 == 0o600
    left, right = socket.socketpair()
    require_same_user(left)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with left, right, pytest.raises(PermissionError, match="not 12345's"):
        require_same_user(left)


def test_places_of_dead_nodes_are_cleared_away(node):
    base = Place.of({}, node.pid).folder.parent
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, used = base / f"{gone.pid}-abc", base / f"{gone.pid}-def"
    left.mkdir(mode=0o700)
    used.mkdir(mode=0o700)
    with Place(used).listen():  # a number of another container's
        Place.of({}, node.pid)
        assert not left.exists()
        assert used.exists()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("resident", "maybe", "resident='maybe' must be true or false"),
        ("resident-idle", 0, "resident-idle=0 must be a number of seconds above 0"),
        ("resident-idle", float("nan"), "resident-idle=nan must be a number of seconds above 0"),
    ],
)
def test_a_bad_setting_is_told_to_the_party_alone(node, caplog, key, value, says):
    answer = call.answer(message(**{key: value}))
    assert facts(answer)["failure"] == "this party's node configuration cannot be used; its own log says why"
    assert says in caplog.text


def test_a_worker_stays_in_a_deployment_alone_and_if_wanted(monkeypatch):
    assert Residence.of({}).wanted is False
    monkeypatch.setattr(sys, "argv", ["/bin/flwr-clientapp"])
    assert Residence.of({}) == Residence(True, 600.0)
    assert Residence.of({"resident": False}).wanted is False
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Residence.of({}).wanted is False


def frame_of(**records):
    sent = bytearray()
    write_frame(sent.extend, {"a": [1, None]}, **records)
    return bytes(sent)


def reading(content):
    rest = memoryview(content)

    def receive(size):
        nonlocal rest
        if size > len(rest):
            raise ConnectionError("ended")
        piece, rest = bytes(rest[:size]), rest[size:]
        return piece

    return read_frame(receive)


def test_a_frame_gives_back_every_bit():
    arrays = {
        "half": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
        "odd": np.array([np.nan, -0.0, np.inf], np.float32),
        "large": np.arange(3_000_000, dtype=np.float32),  # more than one piece of Flower's
        "none": np.zeros((0, 4), np.float32),
    }
    whole = pack(Envelope({"x": "ü"}, Payload(arrays, {"t": ["a", ""]})))
    whole["strange"] = ConfigRecord({"n": 2**63, "b": b"\x00"})
    head, records = reading(frame_of(content=whole, state=RecordDict()))
    assert head == {"a": [1, None]}
    assert records["state"] == RecordDict()
    assert records["content"] == whole
    back = unpack(records["content"]).payload
    assert {name: array.tobytes() for name, array in back.arrays.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }


def test_a_frame_that_is_cut_short_or_damaged_is_an_error_of_the_line():
    content = frame_of(content=pack(Envelope({"x": 1}, Payload({"w": np.ones(3, np.float32)}))))
    for end in range(0, len(content), 7):
        with pytest.raises(ConnectionError):
            reading(content[:end])
    for damaged in (b"\xff" * 8 + content, content[:8] + b"[" + content[9:]):
        with pytest.raises(ConnectionError):
            reading(damaged)


def test_memory_is_short_by_the_machine_or_the_control_group(tmp_path, monkeypatch):
    for used, cached, short in ((90, 0, False), (97, 0, True), (97, 50, False)):
        (tmp_path / "memory.max").write_text("100\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
        assert pressure._group_is_short(tmp_path) is short
    (tmp_path / "memory.max").write_text("max\n")
    assert pressure._group_is_short(tmp_path) is False
    assert pressure._group_is_short(tmp_path / "nowhere") is False
    monkeypatch.setattr(pressure, "_own_group", lambda: tmp_path)
    seen = psutil.virtual_memory()
    for share, short in ((0.5, False), (0.01, True)):
        left = seen._replace(available=int(share * seen.total))
        monkeypatch.setattr(pressure.psutil, "virtual_memory", lambda left=left: left)
        assert pressure.is_short_of_memory() is short


def test_ctrl_c_ends_a_worker_without_a_traceback(node):
    call.answer(message())
    (worker,) = workers()
    worker.send_signal(signal.SIGINT)
    assert with_end(worker) == -signal.SIGINT
