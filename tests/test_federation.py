"""The federation around a method: who joins, who is refused, what is left out, when a round fails."""

import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

import client_app
from fedapp.client import workplace as workplaces
from fedapp.core.errors import FederationError
from fedapp.core.payload import Payload
from fedapp.engines.grid import InProcessGrid, Network, server_identity
from fedapp.server.strategy import _given_away
from fedapp.server.transport import ask
from fedapp.wire.records import Envelope, pack, unpack
from tests.federation import TOY, run_toy


def tampering(change, only_client=None, phase="train"):
    """A network that rewrites replies: ``change(facts, arrays) -> (facts, arrays)``."""

    def tamper(client_id, reply):
        if reply.metadata.message_type != phase or only_client not in (None, client_id):
            return reply
        envelope = unpack(reply.content)
        facts, arrays = change(dict(envelope.facts), dict(envelope.payload.arrays))
        reply.content.clear()
        reply.content.update(pack(Envelope(facts, Payload(arrays=arrays))))
        return reply

    return Network(tamper=tamper)


def rename(facts, arrays):
    arrays["layer.9.prefix.bias"] = arrays.pop("layer.0.prefix.bias")
    return facts, arrays


def reshape(facts, arrays):
    return facts, arrays | {"layer.0.prefix.bias": np.zeros(5, np.float32)}


def retype(facts, arrays):
    return facts, {name: array.astype(np.float64) for name, array in arrays.items()}


def poison(facts, arrays):
    arrays["layer.0.prefix.bias"] = np.array([1, np.inf, 0, 0], np.float32)
    return facts, arrays


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename, "layer.0.prefix.bias"),
        (reshape, "layer.0.prefix.bias"),
        (retype, "float"),
        (poison, "client 1 is left out: its values in 'layer.0.prefix.bias' are not finite"),
        (lambda f, a: (f | {"num-examples": -5}, a), "it reports num-examples=-5"),
        (lambda f, a: (f | {"num-examples": True}, a), "it reports num-examples=True"),
        (lambda f, a: (f | {"metrics": {"x": "1"}}, a), "it reports malformed metrics"),
        (lambda f, a: (f | {"rows": "none"}, a), "it reports malformed scores"),
        (lambda f, a: (f | {"server-round": 7}, a), "it answers round 7"),
        (lambda f, a: (f | {"client-id": 11}, a), "client 1 is left out: it calls itself client 11"),
        (lambda f, a: (f | {"client-id": "1"}, a), "calls itself client '1'"),
        (
            lambda f, a: (f | {"failure": "the training loss is nan"}, a),
            "client 1 is left out: the training loss is nan",
        ),
    ],
)
def test_a_reply_that_cannot_be_used_is_left_out_and_named(change, said, tmp_path):
    run = run_toy(tmp_path / "run", "num_rounds=1", network=tampering(change, only_client=1))
    assert any(said in warning and "round 1" in warning for warning in run.warnings()), run.warnings()
    assert len([warning for warning in run.warnings() if "client 1" in warning]) == 1
    used = {row["client-id"] for row in run.rows("metrics") if "train-loss" in row}
    assert used == {0, 2, 3}


def test_a_reply_that_is_no_message_of_ours_is_left_out(tmp_path):
    def tamper(client_id, reply):
        if client_id == 3 and reply.metadata.message_type == "train":
            reply.content.clear()
        return reply

    run = run_toy(tmp_path / "run", "num_rounds=1", network=Network(tamper=tamper))
    assert any("no 'fedapp-message'" in warning for warning in run.warnings())


def test_a_client_cannot_speak_for_another(tmp_path):
    network = tampering(lambda facts, arrays: (facts | {"client-id": 0}, arrays), only_client=1)
    run = run_toy(tmp_path / "run", "num_rounds=1", network=network)
    assert any("client 1 is left out: it calls itself client 0" in warning for warning in run.warnings())
    assert {row["client-id"] for row in run.rows("metrics") if "train-loss" in row} == {0, 2, 3}


def test_a_round_without_enough_replies_fails_and_says_why(tmp_path):
    network = tampering(lambda facts, arrays: (facts | {"failure": "the training loss is nan"}, arrays))
    with pytest.raises(FederationError, match=r"round 1: 0 usable replies of 4, 2 are needed.*loss is nan"):
        run_toy(tmp_path / "run", network=network)
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["status"] == "failed"
    assert "loss is nan" in described["reason"]
    assert not (tmp_path / "run" / "summary.json").exists()


def test_min_replies_says_how_many_are_enough(tmp_path):
    drop = Network(drop=lambda client, request: client == 0 and request.metadata.message_type == "train")
    run = run_toy(tmp_path / "a", "min_replies=3", "num_rounds=1", network=drop)
    silent = "round 1: no reply, train goes on without client 0"
    assert [warning for warning in run.warnings() if "client 0" in warning] == [silent]
    with pytest.raises(FederationError, match="3 usable replies of 4, 4 are needed"):
        run_toy(tmp_path / "b", "min_replies=4", "num_rounds=1", network=drop)


def test_a_client_that_diverges_reports_it_and_is_left_out(tmp_path):
    # Distinct tasks: client 3 holds the task whose label is 3.
    run = run_toy(tmp_path / "run", "partitioner=distinct_task", "adapter.diverge_from=3", "num_rounds=2")
    assert any(
        "round 2" in w and "client 3 is left out: the training loss is nan" in w for w in run.warnings()
    )
    assert {r["client-id"] for r in run.rows("metrics") if "train-loss" in r} == {0, 1, 2}


def test_clients_that_never_come_are_named_and_the_run_goes_on_with_enough(tmp_path):
    run = run_toy(tmp_path / "run", "num_rounds=1", "num_clients=4", "join_timeout=0.5", app=only(0, 1, 2))
    assert any("without client 3" in warning for warning in run.warnings())


def test_too_few_clients_fail_the_run_after_the_deadline(tmp_path):
    with pytest.raises(FederationError, match=r"1 of num_clients=4 clients joined, 2 are needed"):
        run_toy(tmp_path / "run", "join_timeout=0.5", app=only(0))


def only(*clients):
    """A client app whose other nodes have nothing to offer."""
    app = ClientApp()

    def claims_none(message, context):
        if context.node_config["partition-id"] in clients:
            return client_app.app(message, context)
        return Message(pack(Envelope({"clients": []})), reply_to=message)

    for kind in (app.query, app.train, app.evaluate):
        kind()(claims_none)
    return app


def changed_join(facts_of):
    app = ClientApp()

    def join(message, context):
        reply = client_app.app(message, context)
        facts = unpack(reply.content).facts
        facts.update(facts_of(context.node_config["partition-id"]))
        return Message(pack(Envelope(facts)), reply_to=message)

    app.query()(join)
    app.train()(lambda message, context: client_app.app(message, context))
    app.evaluate()(lambda message, context: client_app.app(message, context))
    return app


def test_a_node_with_another_base_model_is_refused_naming_both(tmp_path):
    app = changed_join(lambda p: {"fingerprints": ["other"]} if p == 2 else {})
    run = run_toy(tmp_path / "run", "num_rounds=1", app=app)
    assert any("client 2 is refused: its base model is other, this run's is toy" in w for w in run.warnings())
    assert {row["client-id"] for row in run.rows("traffic")} == {0, 1, 3}


def test_the_configured_fingerprint_outweighs_the_majority(tmp_path):
    with pytest.raises(FederationError, match="its base model is toy, this run's is expected"):
        run_toy(tmp_path / "run", "model.about.fingerprint=expected")


def test_a_client_refuses_to_train_another_base_than_the_runs():
    with server_identity(1):
        grid = InProcessGrid(client_app.app, 1, {})
        from fedapp.config.compose import load_config

        facts = {"config": load_config([*TOY]).to_json(), "client-id": 0, "server-round": 1}
        facts |= {"phase": "train", "final": False}
        content = pack(Envelope(facts | {"fingerprint": "another"}))
        message = Message(content, dst_node_id=grid.get_node_ids()[0], message_type="train")
        (reply,) = grid.send_and_receive([message])
    workplaces.close()
    assert "has another base model than this run's, another" in unpack(reply.content).facts["failure"]


def test_two_nodes_that_claim_one_client_end_the_run_and_are_named(tmp_path):
    app = changed_join(lambda p: {"clients": [0]} if p == 1 else {})
    with pytest.raises(FederationError, match=r"^nodes \d+ and \d+ both claim client 0: give each node"):
        run_toy(tmp_path / "run", "num_rounds=1", "join_timeout=3", app=app)
    assert not (tmp_path / "run" / "traffic.jsonl").exists()


def test_a_client_app_that_cannot_work_fails_the_run_at_once(tmp_path):
    with pytest.raises(FederationError, match=r"a node cannot join: adapter.size=0 must be"):
        run_toy(tmp_path / "run", "adapter.size=0", "join_timeout=60")


def test_flowers_own_start_runs_our_strategies_too(tmp_path, monkeypatch):
    from flwr.app import ArrayRecord
    from flwr.serverapp.strategy import Strategy

    from fedapp.server.strategy import ServerStrategy

    ours = run_toy(tmp_path / "ours", "num_rounds=2")
    monkeypatch.setattr(
        ServerStrategy, "start", lambda self, grid: Strategy.start(self, grid, ArrayRecord(), num_rounds=2)
    )
    flowers = run_toy(tmp_path / "flowers", "num_rounds=2")
    assert ours.adapters() == flowers.adapters()
    assert ours.rows("metrics") == flowers.rows("metrics")


def test_a_message_without_a_config_fails_in_one_line():
    with server_identity(1):
        grid = InProcessGrid(client_app.app, 1, {})
        message = Message(RecordDict(), dst_node_id=grid.get_node_ids()[0], message_type="train")
        (reply,) = grid.send_and_receive([message])
    assert unpack(reply.content).facts["failure"].startswith("the message has no ")


def test_messages_are_let_go_of_once_they_are_sent_or_read():
    class Thing:
        pass

    class Post:
        def push_messages(self, messages):
            return ["a" for _ in messages]

        def pull_messages(self, message_ids):
            return []

    things = [Thing(), Thing()]
    references = [weakref.ref(thing) for thing in things]
    reader = _given_away(things)
    next(reader)
    next(reader)
    assert references[0]() is None
    sent = [SimpleNamespace(metadata=SimpleNamespace(dst_node_id=1))]
    assert ask(Post(), sent, 0.0, lambda reply: None) == []
    assert sent == []
