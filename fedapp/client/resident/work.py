"""A message answered: records and the client's memory in, records and the changed memory out.

It is the same work in the process that Flower starts for a message and in a resident worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedapp.client import serve as serving
from fedapp.client.party import Exchange, Party
from fedapp.client.resident.request import Answer, Request
from fedapp.core.payload import Payload
from fedapp.core.types import ClientFailure
from fedapp.wire.messages import Done, Failed, Joined
from fedapp.wire.reading import read_join, read_work
from fedapp.wire.records import Envelope, pack, unpack


def answer(request: Request) -> Answer:
    """Do what a message asks for; the party decides first, and its log says what leaves.

    Raises:
        Exception: As ``Party.answer``.
    """
    known: dict[str, Callable[[Request], Answer]] = {"join": join, "serve": serve}
    return known[request.action](request)


def join(request: Request) -> Answer:
    """Say which clients the node holds and which base model, having opened all that a round needs."""

    def work(party: Party, exchange: Exchange) -> Joined:
        asked = read_join(request.content)
        exchange.clients = serving.join(asked, dict(request.node_config))
        asked = replace(asked, config=party.admit(asked.config, exchange))
        return serving.open_workplaces(asked, exchange.clients)

    return Answer(_reply(request, work).pack())


def serve(request: Request) -> Answer:
    """Do a client's part of a round, or score its model."""
    told = Answer(request.content)

    def work(party: Party, exchange: Exchange) -> Done:
        asked = read_work(request.content)
        exchange.about |= {"phase": asked.phase, "round": asked.server_round}
        exchange.clients = (asked.client_id,)
        serving.require_own(asked, dict(request.node_config))
        asked = replace(asked, config=party.admit(asked.config, exchange))
        memory = f"client-{asked.client_id}"
        kept = serving.memory_folder(asked, party.policy.memory)
        held = f"{memory}-message" in request.state  # else this node is new to the run, or was started again
        known = unpack(request.state, prefix=memory).payload.arrays if held else serving.recall(asked, kept)
        state = dict(known or {})
        done = replace(serving.serve(asked, state, party.output), forgot=known is None)
        if asked.phase != "evaluate":  # scoring leaves the memory as it was
            if kept is not None:
                serving.keep_memory(kept, asked.server_round, state)
            told.state.update(pack(Envelope({}, Payload(arrays=state)), prefix=memory))
        told.last = asked.final and asked.phase == "evaluate"
        return done

    told.content = _reply(request, work).pack()
    return told


def _reply(request: Request, work: Callable[[Party, Exchange], Done | Joined]) -> Done | Joined | Failed:
    """The party's answer to a message."""
    try:
        party = Party.of(dict(request.node_config))
    except ClientFailure as error:
        return Failed(str(error))
    exchange = Exchange({"run": request.run, "message": request.message_type})
    return party.answer(exchange, lambda: work(party, exchange))


def fail(request: Request, reason: str) -> Answer:
    """The answer to a message that cannot be worked on: the party's log has it, its policy decides on it."""

    def work(party: Party, exchange: Exchange) -> Done:
        raise ClientFailure(reason)

    return Answer(_reply(request, work).pack())
