"""Messages to nodes, and their replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

POLL_SECONDS = 0.1


def push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; return the node that each message id went to."""
    if not messages:
        return {}
    ids = list(grid.push_messages(messages))
    nodes = [message.metadata.dst_node_id for message in messages]
    # A node that has just left gets no id.
    return {message_id: node for message_id, node in zip(ids, nodes, strict=True) if message_id}


def pull(grid: Grid, message_ids: Sequence[str]) -> list[tuple[str, Message]]:
    """Replies that have arrived, each once, with the id of the message it answers.

    Errors name the wrong node, so the message answered is what identifies a reply.
    """
    if not message_ids:
        return []
    found: dict[str, Message] = {}
    for reply in grid.pull_messages(message_ids):
        if reply.metadata.reply_to_message_id in message_ids:
            found.setdefault(reply.metadata.reply_to_message_id, reply)
    return list(found.items())


def ask(
    grid: Grid, messages: list[Message], timeout: float, on_reply: Callable[[Message], None]
) -> list[Message]:
    """Send messages and collect their replies until all are in or time is up.

    The list is emptied: what is sent is with the grid, and a second copy of every download would
    wait here for the slowest client. Flower's own ``send_and_receive`` looks every three seconds
    and shows nothing meanwhile.
    """
    pending = push(grid, messages)
    messages.clear()
    deadline = time.monotonic() + timeout
    replies: list[Message] = []
    while pending and time.monotonic() < deadline:
        arrived = pull(grid, list(pending))
        for message_id, reply in arrived:
            del pending[message_id]
            replies.append(reply)
            on_reply(reply)
        if pending and not arrived:
            time.sleep(POLL_SECONDS)
    return replies
