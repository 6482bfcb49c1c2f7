"""Messages to nodes, and their replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedapp.core.errors import one_line

POLL_SECONDS = 0.1
PUSHED_AT_ONCE = 8
"""Messages handed over together; those that wait for it and those handed over are both in memory."""


class UnreadableReply(RuntimeError):
    """Flower cannot put together what a node sent; it does not say which, and what came along is lost."""


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

    Raises:
        UnreadableReply: If Flower cannot make a message of what has arrived.
    """
    if not message_ids:
        return []
    found: dict[str, Message] = {}
    waiting = set(message_ids)
    try:
        arrived = list(grid.pull_messages(message_ids))
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # those of its records' parsing
        text = f"a reply is no message of Flower's, it is lost with those that came along: {one_line(error)}"
        raise UnreadableReply(text) from error
    for reply in arrived:
        if reply.metadata.reply_to_message_id in waiting:
            found.setdefault(reply.metadata.reply_to_message_id, reply)
    return list(found.items())


def pull_or_warn(
    grid: Grid, message_ids: Sequence[str], warn: Callable[[str], None], faults: list[str]
) -> list[tuple[str, Message]]:
    """The same, with a warning in place of the error.

    Args:
        grid: Where the nodes are.
        message_ids: Messages that wait for a reply.
        warn: Told of what is lost.
        faults: What was lost so far; each message can be lost once.

    Raises:
        UnreadableReply: If there are more faults than messages: then it is not the replies' fault.
    """
    try:
        return pull(grid, message_ids)
    except UnreadableReply as error:
        faults.append(str(error))
        if len(faults) > len(message_ids):
            raise
        warn(faults[-1])
        return []


def ask(
    grid: Grid,
    messages: list[Message],
    timeout: float,
    on_reply: Callable[[Message], None],
    warn: Callable[[str], None] = print,
) -> list[Message]:
    """Send messages and collect their replies until all are in or time is up.

    The list is emptied: what is sent is with the grid, and a second copy of every download would
    wait here for the slowest client. Flower's own ``send_and_receive`` looks every three seconds
    and shows nothing meanwhile.

    Raises:
        UnreadableReply: If Flower can read no reply at all.
    """
    pending: dict[str, int] = {}
    while messages:  # a grid within this process copies them
        pending |= push(grid, messages[:PUSHED_AT_ONCE])
        del messages[:PUSHED_AT_ONCE]
    deadline = time.monotonic() + timeout
    replies: list[Message] = []
    faults: list[str] = []
    while pending and time.monotonic() < deadline:
        arrived = pull_or_warn(grid, list(pending), warn, faults)
        for message_id, reply in arrived:
            del pending[message_id]
            replies.append(reply)
            on_reply(reply)
        if pending and not arrived:
            time.sleep(POLL_SECONDS)
    return replies
