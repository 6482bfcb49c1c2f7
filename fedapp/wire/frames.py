"""Records as bytes between two processes of one user, in Flower's own serialisation; no pickle.

A frame is its head's length (8 bytes), the head (JSON) and then what the head announces: Flower's
objects, one after the other, as they travel over HTTP. Arrays go in pieces of a few MiB, so that no
limit of a serialised message is met.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

Records = RecordDict
"""Flower's records, for those who hand them on and do not know Flower."""

LENGTH = struct.Struct("!Q")
MAX_HEAD = 2**26
MAX_OBJECTS = 2**40
_SENT = "records"

Receive = Callable[[int], bytes]
"""Gives that many bytes, or raises."""


class FrameError(ConnectionError):
    """What arrived is no frame: the other side ended in the middle of it, or is not ours."""


def write_frame(send: Callable[[bytes], Any], head: Mapping[str, Any], **records: Records) -> None:
    """Send a head and records.

    Args:
        send: Takes bytes, and sends all of them.
        head: JSON values.
        records: By the names that ``read_frame`` gives them back under.
    """
    listed: dict[str, Any] = {}
    contents: list[bytes] = []
    for name, part in records.items():
        with no_object_id_recompute():
            objects = {key: one.deflate() for key, one in get_all_nested_objects(part).items()}
            listed[name] = [part.object_id, [[key, len(content)] for key, content in objects.items()]]
        contents += objects.values()
    text = json.dumps({**head, _SENT: listed}).encode()
    send(LENGTH.pack(len(text)) + text)
    for content in contents:
        send(content)


def read_frame(receive: Receive) -> tuple[dict[str, Any], dict[str, Records]]:
    """Receive a head and its records.

    Args:
        receive: Gives as many bytes as it is asked for.

    Raises:
        FrameError: If it is no frame.
    """
    (size,) = LENGTH.unpack(receive(LENGTH.size))
    if size > MAX_HEAD:
        raise FrameError(f"a frame's head has {size} bytes, more than {MAX_HEAD}")
    try:
        head = json.loads(receive(size))
        listed = head.pop(_SENT)
        plan = {
            name: (str(root), [(str(key), int(length)) for key, length in objects])
            for name, (root, objects) in listed.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FrameError(f"a frame's head cannot be read: {error}") from None
    if any(not 0 <= length <= MAX_OBJECTS for _, objects in plan.values() for _, length in objects):
        raise FrameError("a frame announces an object of an absurd size")
    return head, {name: _inflate(root, objects, receive) for name, (root, objects) in plan.items()}


def _inflate(root: str, objects: list[tuple[str, int]], receive: Receive) -> Records:
    contents = {key: receive(length) for key, length in objects}
    try:
        found = inflate_object_from_contents(root, contents)
    except (ValueError, KeyError, LookupError) as error:
        raise FrameError(f"a frame's objects cannot be read: {error}") from None
    if not isinstance(found, RecordDict):
        raise FrameError(f"a frame holds {type(found).__name__} instead of records")
    return found
