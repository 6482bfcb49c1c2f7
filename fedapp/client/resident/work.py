"""A message answered: records and the client's memory in, records and the changed memory out.

It is the same work in the process that Flower starts for a message and in a resident worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fedapp.client import serve as serving
from fedapp.client.party import Exchange, Party
from fedapp.client.resident.memory import Memories
from fedapp.client.resident.request import Answer, Request
from fedapp.core.types import ClientFailure
from fedapp.wire.messages import Done, Failed, Joined
from fedapp.wire.reading import read_join, read_work


def answer(request: Request, memories: Memories | None = None) -> Answer:
    """Do what a message asks for; the party decides first, and its log says what leaves.

    Args:
        request: The message.
        memories: What this process remembers of its clients from one message to the next; None: nothing.

    Raises:
        Exception: As ``Party.answer``.
    """
    if request.action == "join":
        return join(request)
    return serve(request, Memories() if memories is None else memories)


def join(request: Request) -> Answer:
    """Say which clients the node holds and which base model, having opened all that a round needs."""

    def work(party: Party, exchange: Exchange) -> Joined:
        asked = read_join(request.content)
        exchange.clients = serving.join(asked, dict(request.node_config))
        asked = replace(asked, config=party.admit(asked.config, exchange))
        return serving.open_workplaces(asked, exchange.clients)

    return Answer(_reply(request, work).pack())


def serve(request: Request, memories: Memories) -> Answer:
    """Do a client's part of a round, or score its model."""
    told = Answer(request.content)

    def work(party: Party, exchange: Exchange) -> Done:
        asked = read_work(request.content)
        exchange.about |= {"phase": asked.phase, "round": asked.server_round}
        exchange.clients = (asked.client_id,)
        serving.require_own(asked, dict(request.node_config))
        asked = replace(asked, config=party.admit(asked.config, exchange))
        folder = serving.memory_folder(asked, party.policy.memory)
        known = memories.recall(asked, request.state, folder)
        state = dict(known.arrays) if known is not None else {}
        done = serving.serve(asked, state, party.output)
        done = replace(done, remembers=None if known is None else known.server_round)
        if asked.phase != "evaluate":  # scoring leaves the memory as it was
            told.state.update(memories.keep(asked, state, folder))
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
