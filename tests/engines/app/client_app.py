"""A client that answers, sleeps or fails as the server tells it."""

from __future__ import annotations

import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the client's number."""
    fault = message.content["told"]["fault"]
    if fault == "clients":
        raise ValueError("there is no data here")
    if fault == "sleep":
        time.sleep(60)
    reply = ConfigRecord({"client-id": int(context.node_config["partition-id"])})
    return Message(RecordDict({"reply": reply}), reply_to=message)
