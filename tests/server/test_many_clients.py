"""A server's work for a message does not grow with the number of clients."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from flwr.app import Message

from fedapp.core.payload import Payload
from fedapp.wire.messages import ClientSizes, Done, Joined, Row
from fedapp.wire.records import unpack_facts
from tests.federation import run_toy

FEW, MANY = 12, 48
FINAL = Row("test", "final", "after", 4, {"loss": 1.0, "accuracy": 0.5})


class Answers:
    """Clients that answer at once; what Python calls on the server's side in between is counted."""

    def __init__(self):
        self.messages, self.calls = 0, Counter()

    def count(self, frame, event, argument):
        if event == "call":
            self.calls[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            self.calls[argument.__qualname__] += 1

    def __call__(self, message, context):
        sys.setprofile(None)
        self.messages += 1
        client = context.node_config["partition-id"]
        if message.metadata.message_type == "query":
            answer = Joined((client,), ("0" * 64,), (10,))
        else:
            server_round = unpack_facts(message.content)["server-round"]
            scored = message.metadata.message_type == "evaluate"
            upload = {} if scored else {"w": np.full(8, client, np.float32)}
            sizes, rows = ClientSizes(10, 0, 4, 8, ("t",)), (FINAL,) * scored
            measured = {} if scored else {"train-loss": 1.0}
            answer = Done(client, server_round, 10, measured, rows, sizes, 0.1, 0.1, Payload(upload))
        reply = Message(answer.pack(), reply_to=message)
        sys.setprofile(self.count)
        return reply


def answered(folder, count, *words):
    clients = Answers()
    settings = [f"num_clients={count}", f"benchmark.num_train={12 * count}", *words, "num_rounds=2"]
    try:
        run_toy(folder, *settings, "save_adapters=false", num_nodes=count, app=clients)
    finally:
        sys.setprofile(None)
    return clients


@pytest.mark.parametrize("method", ["fedreft_mean", "fedavg"])
def test_what_a_server_calls_for_a_message_does_not_grow_with_the_clients(method, tmp_path):
    few = answered(tmp_path / "few", FEW, f"method={method}")
    many = answered(tmp_path / "many", MANY, f"method={method}")
    assert (few.messages, many.messages) == (4 * FEW, 4 * MANY)  # joining, two rounds, the final models
    growing = {
        name: calls / MANY - few.calls[name] / FEW
        for name, calls in many.calls.items()
        if calls > many.messages and calls / MANY > 1.5 * few.calls[name] / FEW
    }
    assert growing == {}  # calls a client, of what is called for every message
