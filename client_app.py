"""The ClientApp: the same for every method, adapter and benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedapp.client import serve as serving
from fedapp.client import workplace as workplaces
from fedapp.core.errors import one_line
from fedapp.core.payload import Payload
from fedapp.core.types import ClientFailure
from fedapp.wire.records import Envelope, WireError, pack, unpack

app = ClientApp()


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say which clients this node holds and which base model, having opened all that a round needs."""
    facts: dict[str, Any] = {"clients": []}
    config = _received(message)[0]["config"]
    facts["clients"] = _clients_here(context, json.loads(config)["num_clients"])

    def answer() -> dict[str, Any]:
        found = []
        for client_id in facts["clients"]:
            place = workplaces.workplace(config, client_id)
            place.data(client_id)
            found.append(place.base.fingerprint)
        return {"fingerprints": found}

    return _reply(message, facts | _caught(answer))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do a client's local training of one round."""
    return _serve("train", message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score a client's model; after the last round, keep its adapter."""
    return _serve("evaluate", message, context)


def _serve(phase: str, message: Message, context: Context) -> Message:
    facts, download = _received(message)
    about = {"client-id": facts["client-id"], "server-round": facts["server-round"]}
    memory = f"client-{facts['client-id']}"
    sent: list[Payload] = []

    def work() -> dict[str, Any]:
        held = f"{memory}-message" in context.state
        state = dict(unpack(context.state, prefix=memory).payload.arrays) if held else {}
        reply, payload = serving.serve(phase, facts, download, state)
        if payload is not None:
            sent.append(payload)
            context.state.update(pack(Envelope({}, Payload(arrays=state)), prefix=memory))
        place = workplaces.workplace(facts["config"], facts["client-id"])
        if phase == "evaluate" and facts.get("final") and place.config["save_adapters"]:
            serving.save_adapter(place, facts["client-id"], context.node_config.get("output-dir"))  # type: ignore[arg-type]
        return reply

    return _reply(message, about | _caught(work), sent[0] if sent else Payload())


def _clients_here(context: Context, num_clients: int) -> list[int]:
    """The node's clients: its partition, and with fewer nodes than clients every n-th after it."""
    node = context.node_config
    if "partition-id" not in node:
        raise ClientFailure(
            "start the SuperNode with --node-config 'partition-id=<number of the client, from 0>'"
        )
    first, count = int(node["partition-id"]), int(node.get("num-partitions", num_clients))
    return list(range(first, num_clients, max(count, 1)))


def _caught(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run; an expected failure becomes a fact of the reply, so that the server can name it."""
    try:
        return work()
    except (ClientFailure, ValueError, ImportError, OSError) as error:
        return {"failure": one_line(error)}


def _received(message: Message) -> tuple[dict[str, Any], Payload]:
    envelope = unpack(message.content)
    if not isinstance(envelope.facts.get("config"), str):
        raise WireError("the server's message has no config")
    return envelope.facts, envelope.payload


def _reply(message: Message, facts: dict[str, Any], payload: Payload | None = None) -> Message:
    return Message(pack(Envelope(facts, payload or Payload())), reply_to=message)
