"""Each way in which one client's reply can be wrong: it is left out by name, and the run goes on."""

import json
import zlib

import numpy as np
import pytest

from fedapp.engines.grid import Network
from fedapp.wire.records import pack, unpack
from tests.federation import run_toy
from tests.server_side import ROW, raw_records

DEEP = b"\x93NUMPY\x01\x00\xc8\x00" + b"[" * 200


def said(**changed):
    """A reply whose facts are changed; its arrays stay."""

    def change(reply):
        body = body_of(reply)
        body["facts"] |= {name.replace("_", "-"): value for name, value in changed.items()}
        return json.dumps(body).encode()

    return change


def body_of(reply):
    return json.loads(zlib.decompress(reply["fedapp-message"]["json"]))


def fixed(text):
    return lambda reply: text


def scored(name, value):
    """A reply with a row of scores in which one thing is changed or added."""
    return said(rows=[{**ROW, name: value}])


# By client: what arrives in place of its reply, and what the warning says of it.
FAULTS = {
    1: (fixed(b'{"facts":' + b"9" * 5000 + b',"manifest":[],"texts":{}}'), "number of thousands of digits"),
    2: ("blob", "the blob cannot be read"),
    3: (fixed(b"[" * 100_000 + b"]" * 100_000), "nests deeper than 8"),
    4: (said(rows=[{k: v for k, v in ROW.items() if k != "split"}]), "split none is none of"),
    5: (scored("accuracy", "high"), "accuracy='high' must be a number from 0 to 1"),
    6: (said(metrics={"train-loss": 10**400}), "a number of more than 30 digits"),
    7: (said(about={"tasks": 5}), "tasks must be a list of names"),
    8: (scored("client-id", 0), "a row with its own client-id"),
    9: (scored("server-round", 2), "a row with its own server-round"),
    10: (scored("accuracy", 9.0), "accuracy=9.0 must be a number from 0 to 1"),
    11: (scored("accuracy", float("nan")), "accuracy=nan must be"),
    12: (scored("loss", float("inf")), "loss=inf must be"),
    13: (said(num_examples=2**39), "num-examples=549755813888, more than max_examples"),
    14: (fixed(b'{"facts":{"x":[' + b"[]," * 2**22 + b"0]}}"), "more than 1048576 values"),
    15: (scored("zzz", 0.5), "its scores are not called accuracy"),
    16: (said(failure="\x1b[2Jdata\u202e"), r"left out: \x1b[2Jdata\u202e"),
    17: ("large", "reach 1e+30, more than 1e+18"),
}


def spoil(client_id, reply):
    if client_id not in FAULTS or reply.metadata.message_type != "train":
        return reply
    what, _ = FAULTS[client_id]
    if what == "large":
        envelope = unpack(reply.content)
        for array in envelope.payload.arrays.values():
            array[...] = np.float32(1e30)
        reply.content.update(pack(envelope))
        return reply
    text = json.dumps(body_of(reply.content)).encode() if what == "blob" else what(reply.content)
    records = raw_records(text, DEEP if what == "blob" else None)
    reply.content["fedapp-message"] = records["fedapp-message"]
    if what == "blob":
        reply.content["fedapp-arrays"] = records["fedapp-arrays"]
    return reply


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    clients = len(FAULTS) + 4
    settings = ["num_rounds=2", "min_replies=2", "benchmark.num_train=400", "round_timeout=60"]
    return run_toy(
        folder, f"num_clients={clients}", *settings, network=Network(tamper=spoil), num_nodes=clients
    )


@pytest.mark.parametrize("client", FAULTS)
def test_it_is_left_out_by_name_in_every_round(run, client):
    text = FAULTS[client][1]
    for number in (1, 2):
        named = [w for w in run.warnings() if f"round {number}: a reply of client {client} is left out" in w]
        assert len(named) == 1, run.warnings()
        assert text in named[0]
        assert len(named[0]) < 700
        assert named[0].isprintable()


def test_the_run_is_complete_and_its_numbers_are_those_of_the_others(run):
    assert run.json("run")["status"] == "completed"
    rows = [row for row in run.rows("metrics") if "train-loss" in row]
    assert {row["client-id"] for row in rows} == {0, 18, 19, 20}
    summary = run.json("summary")
    assert summary["metric"] == "accuracy"
    assert 0 <= summary["final"]["mean-score"] <= 1
