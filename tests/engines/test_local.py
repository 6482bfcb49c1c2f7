"""The in-process grid: same apps, real bytes, a network that can be hostile."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedapp.engines.grid import InProcessGrid, Network, run_local

from .toy_apps import client_app, requests, server


def replies_of(network: Network | None = None, *, run_config=None, num_rounds=1, num_nodes=3):
    """Run rounds on the toy apps; return the replies of every round."""
    rounds: list[list[Message]] = []

    def body(grid: Grid, context: Context) -> None:
        for server_round in range(1, num_rounds + 1):
            rounds.append(list(grid.send_and_receive(requests(grid, server_round))))

    run_local(server(body), client_app, num_nodes=num_nodes, run_config=run_config or {}, network=network)
    return rounds


def clients(replies: list[Message]) -> list[int]:
    return [reply.content["reply"]["client-id"] for reply in replies]


def test_every_client_is_reached_and_answers_with_its_own_array():
    (replies,) = replies_of()
    assert clients(replies) == [0, 1, 2]
    assert [reply.content["arrays"]["w"].numpy().tolist() for reply in replies] == [[0, 0], [1, 1], [2, 2]]


def test_memory_is_kept_per_client_between_rounds():
    rounds = replies_of(num_rounds=3)
    calls = [[reply.content["reply"]["calls"] for reply in replies] for replies in rounds]
    assert calls == [[1] * 3, [2] * 3, [3] * 3]


def test_a_failed_message_leaves_the_clients_memory_as_it_was():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        known = "seen" in context.state
        context.state["seen"] = ConfigRecord({"yes": True})
        if message.metadata.group_id == "1":
            raise ValueError("first round fails")
        return Message(RecordDict({"reply": ConfigRecord({"known": known})}), reply_to=message)

    seen = []

    def body(grid: Grid, context: Context) -> None:
        for server_round in (1, 2, 3):
            seen.extend(grid.send_and_receive(requests(grid, server_round)))

    run_local(server(body), app, num_nodes=1, run_config={})
    assert seen[0].has_error()
    assert [m.content["reply"]["known"] for m in seen[1:]] == [False, True]


def test_a_client_that_raises_becomes_an_error_reply_with_its_words():
    (replies,) = replies_of(run_config={"failing-client": 1})
    assert [reply.has_error() for reply in replies] == [False, True, False]
    assert "client 1 has no data" in replies[1].error.reason
    assert replies[1].error.code == 2  # Flower's CLIENT_APP_RAISED_EXCEPTION


def test_what_the_server_raises_is_raised():
    def body(grid: Grid, context: Context) -> None:
        raise RuntimeError("too few replies")

    with pytest.raises(RuntimeError, match="too few replies"):
        run_local(server(body), client_app, num_nodes=1, run_config={})


def test_client_and_server_share_no_memory():
    inside = {}
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        inside["request"] = message.content
        inside["reply"] = RecordDict({"reply": ConfigRecord({"a": 1})})
        context.run_config["only-here"] = 1
        return Message(inside["reply"], reply_to=message)

    def body(grid: Grid, context: Context) -> None:
        (request,) = requests(grid)
        (reply,) = grid.send_and_receive([request])
        assert inside["request"] is not request.content
        assert inside["request"]["arrays"]["w"].numpy().base is not request.content["arrays"]["w"]
        inside["reply"]["reply"]["a"] = 2
        assert reply.content["reply"]["a"] == 1
        assert "only-here" not in context.run_config

    run_local(server(body), app, num_nodes=1, run_config={"x": 1})
    assert inside


def test_a_reply_that_cannot_be_sent_is_an_error_reply():
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"reply": ConfigRecord({"n": 2**64})}), reply_to=message)  # 65 bits

    def body(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive(requests(grid))
        assert reply.has_error()

    run_local(server(body), app, num_nodes=1, run_config={})


def test_replies_come_in_reverse_when_asked():
    (replies,) = replies_of(Network(reverse=True))
    assert clients(replies) == [2, 1, 0]


def test_a_dropped_reply_is_lost_after_the_client_worked():
    lost_once = Network(drop=lambda client_id, request: client_id == 1 and request.metadata.group_id == "1")
    first, second = replies_of(lost_once, num_rounds=2)
    assert clients(first) == [0, 2]
    assert [r.content["reply"]["calls"] for r in second] == [2, 2, 2]


def test_a_repeated_reply_arrives_twice_in_answer_to_one_message():
    (replies,) = replies_of(Network(repeat=lambda client_id, request: client_id == 0))
    assert clients(replies) == [0, 0, 1, 2]
    assert replies[0].metadata.reply_to_message_id == replies[1].metadata.reply_to_message_id
    assert replies[0].content is not replies[1].content


def test_a_tampered_reply_arrives_instead():
    def tamper(client_id: int, reply: Message) -> Message:
        reply.content["reply"]["client-id"] = 7
        return reply

    (replies,) = replies_of(Network(tamper=tamper), num_nodes=1)
    assert clients(replies) == [7]


def test_polling_sees_one_client_after_the_other():
    seen = []

    def body(grid: Grid, context: Context) -> None:
        waiting = set(grid.push_messages(requests(grid)))
        while waiting:
            replies = list(grid.pull_messages(waiting))
            seen.append(len(replies))
            waiting -= {reply.metadata.reply_to_message_id for reply in replies}
        assert list(grid.pull_messages(["unknown"])) == []

    run_local(server(body), client_app, num_nodes=3, run_config={})
    assert seen == [1, 1, 1]


def test_replies_name_request_and_node():
    def body(grid: Grid, context: Context) -> None:
        messages = requests(grid)
        node_of = dict(zip(grid.push_messages(messages), grid.get_node_ids(), strict=True))
        for _ in messages:
            (reply,) = grid.pull_messages(node_of)
            assert node_of.pop(reply.metadata.reply_to_message_id) == reply.metadata.src_node_id
            assert reply.metadata.message_id

    run_local(server(body), client_app, num_nodes=3, run_config={})


def test_an_unknown_node_answers_with_an_error():
    def body(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([Message(RecordDict(), 17, "train")])
        assert reply.error == Error(3, "node 17 is not known")  # Flower's MESSAGE_UNAVAILABLE

    run_local(server(body), client_app, num_nodes=1, run_config={})


def test_an_iterator_is_refused_as_it_fails_over_http():
    def body(grid: Grid, context: Context) -> None:
        grid.push_messages(iter(requests(grid)))

    with pytest.raises(TypeError, match="list"):
        run_local(server(body), client_app, num_nodes=1, run_config={})


def test_no_clients_is_refused():
    with pytest.raises(ValueError, match="num_clients=0"):
        InProcessGrid(client_app, 0, {})


def test_traffic_counts_the_arrays_in_both_directions():
    grids = []

    def body(grid: Grid, context: Context) -> None:
        grids.append(grid)
        grid.send_and_receive(requests(grid))
        first = replace(grid.traffic)
        assert first.down > 3 * 2 * 4  # three clients, two float32 each
        assert first.up > 3 * 2 * 4
        grid.send_and_receive(requests(grid))
        assert grid.traffic.up == 2 * first.up

    run_local(server(body), client_app, num_nodes=3, run_config={})
    assert grids


def test_the_identity_of_the_process_is_restored():
    before = vars(TaskIdentity).copy()
    replies_of()
    assert vars(TaskIdentity) == before


def test_arrays_keep_every_bit():
    def body(grid: Grid, context: Context) -> None:
        (request,) = requests(grid)
        values = np.array([np.nan, -0.0, np.inf, 1e-45], np.float32)
        from flwr.app import Array, ArrayRecord

        request.content["arrays"] = ArrayRecord({"w": Array(values)})
        (reply,) = grid.send_and_receive([request])
        assert reply.content["arrays"]["w"].numpy().tobytes() == (values + 0).tobytes()

    run_local(server(body), client_app, num_nodes=1, run_config={})


def test_sixty_four_clients_are_served_in_well_under_a_second_each():
    start = time.process_time()
    replies_of(num_rounds=2, num_nodes=64)
    assert time.process_time() - start < 0.05 * 128  # measured: 2 to 4 ms a message
