"""A server app and a client app that need neither model nor data."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Add the client's number to the array; count the calls in the client's memory."""
    client_id = int(context.node_config["partition-id"])
    if client_id == context.run_config.get("failing-client", -1):
        raise ValueError(f"client {client_id} has no data")
    counter = context.state.get("counter", MetricRecord({"calls": 0}))
    counter["calls"] += 1
    context.state["counter"] = counter
    values = message.content["arrays"]["w"].numpy()
    reply = RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(values + client_id)}),
            "reply": ConfigRecord({"client-id": client_id, "calls": counter["calls"]}),
        }
    )
    return Message(reply, reply_to=message)


def requests(grid: Grid, server_round: int = 1) -> list[Message]:
    """One train message per node that carries ``w = [0, 0]``."""
    content = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(2, np.float32))})})
    return [Message(content, node, "train", group_id=str(server_round)) for node in grid.get_node_ids()]


def server(body: Any) -> ServerApp:
    """Make a server app of a function ``body(grid, context)``."""
    app = ServerApp()
    app.main()(body)
    return app
