"""The ClientApp: the same for every method, adapter and benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedapp.client import serve as serving
from fedapp.client.party import Exchange, Party
from fedapp.core.payload import Payload
from fedapp.core.types import Arrays, ClientFailure
from fedapp.wire.messages import Done, Failed, Joined
from fedapp.wire.reading import read_join, read_work
from fedapp.wire.records import Envelope, pack, unpack

app = ClientApp()


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say which clients this node holds and which base model, having opened all that a round needs."""

    def work(party: Party, exchange: Exchange) -> Joined:
        asked = read_join(message.content)
        exchange.clients = serving.join(asked, dict(context.node_config))
        asked = replace(asked, config=party.admit(asked.config, exchange))
        return serving.open_workplaces(asked, exchange.clients)

    return _reply(message, context, work)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do a client's local training of one round."""
    return _serve(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score a client's model; after the last round, keep its adapter."""
    return _serve(message, context)


def _serve(message: Message, context: Context) -> Message:
    memories: dict[str, Arrays] = {}

    def work(party: Party, exchange: Exchange) -> Done:
        asked = read_work(message.content)
        exchange.about |= {"phase": asked.phase, "round": asked.server_round}
        exchange.clients = (asked.client_id,)
        serving.require_own(asked, dict(context.node_config))
        asked = replace(asked, config=party.admit(asked.config, exchange))
        memory = f"client-{asked.client_id}"
        held = f"{memory}-message" in context.state
        state = dict(unpack(context.state, prefix=memory).payload.arrays) if held else {}
        done = serving.serve(asked, state, party.output)
        if asked.phase != "evaluate":  # scoring leaves the memory as it was
            memories[memory] = state
        return done

    reply = _reply(message, context, work)
    for memory, state in memories.items():
        context.state.update(pack(Envelope({}, Payload(arrays=state)), prefix=memory))
    return reply


def _reply(message: Message, context: Context, work: Callable[[Party, Exchange], Done | Joined]) -> Message:
    """The party's answer to a message."""
    try:
        party = Party.of(dict(context.node_config))
    except ClientFailure as error:
        return Message(Failed(str(error)).pack(), reply_to=message)
    exchange = Exchange({"run": context.run_id, "message": message.metadata.message_type})
    return Message(party.answer(exchange, lambda: work(party, exchange)).pack(), reply_to=message)
