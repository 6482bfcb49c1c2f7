"""The ClientApp: the same for every method, adapter and benchmark."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedapp.client import serve as serving
from fedapp.core.errors import one_line
from fedapp.core.payload import Payload
from fedapp.core.types import ClientFailure
from fedapp.wire.messages import Failed
from fedapp.wire.reading import read_join, read_work
from fedapp.wire.records import Envelope, pack, unpack

app = ClientApp()


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say which clients this node holds and which base model, having opened all that a round needs."""
    asked = read_join(message.content)
    clients = serving.join(asked, dict(context.node_config))
    return _reply(message, clients, lambda: serving.open_workplaces(asked, clients).pack())


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do a client's local training of one round."""
    return _serve(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score a client's model; after the last round, keep its adapter."""
    return _serve(message, context)


def _serve(message: Message, context: Context) -> Message:
    work = read_work(message.content)
    memory = f"client-{work.client_id}"

    def answer() -> RecordDict:
        held = f"{memory}-message" in context.state
        state = dict(unpack(context.state, prefix=memory).payload.arrays) if held else {}
        output_dir = context.node_config.get("output-dir")
        done = serving.serve(work, state, None if output_dir is None else str(output_dir))
        if work.phase != "evaluate":  # scoring leaves the memory as it was
            context.state.update(pack(Envelope({}, Payload(arrays=state)), prefix=memory))
        return done.pack()

    return _reply(message, (work.client_id,), answer)


def _reply(message: Message, clients: tuple[int, ...], answer: Callable[[], RecordDict]) -> Message:
    """Answer; an expected failure becomes the answer, so that the server can name it."""
    try:
        content = answer()
    except (ClientFailure, ValueError, ImportError, OSError) as error:
        content = Failed(one_line(error), clients).pack()
    return Message(content, reply_to=message)
