"""The ClientApp: the same for every method, adapter and benchmark.

In a deployment each message is a process of its own, which stays small: the work is done by the
party's resident worker (``fedapp.client.resident``).
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedapp.client.resident.call import answer
from fedapp.client.resident.request import Action, Request

app = ClientApp()


@app.query()
def join(message: Message, context: Context) -> Message:
    """Say which clients this node holds and which base model, having opened all that a round needs."""
    return _reply("join", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do a client's local training of one round."""
    return _reply("serve", message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score a client's model; after the last round, keep its adapter."""
    return _reply("serve", message, context)


def _reply(action: Action, message: Message, context: Context) -> Message:
    about = message.metadata
    told = answer(
        Request(
            action, context.run_id, about.message_type, context.node_config, message.content, context.state
        )
    )
    context.state.update(told.state)
    return Message(told.content, reply_to=message)
