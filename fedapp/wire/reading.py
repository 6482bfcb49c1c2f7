"""Messages unpacked and checked, in the one place where that happens.

Neither side believes the other: whatever arrives is checked for its names, types and ranges, and a
message that is wrong in any way is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import RecordDict

from fedapp.core.errors import one_line
from fedapp.core.payload import Payload
from fedapp.core.types import Metrics
from fedapp.wire.messages import ClientSizes, Done, Failed, Join, Joined, Row, Work
from fedapp.wire.records import DEFAULT_MAX_BYTES, WireError, unpack, unpack_facts

MAX_ROWS = 1000
MAX_EXAMPLES = 2**40
PHASES = ("open", "train", "evaluate")


def read_join(records: RecordDict) -> Join:
    """Unpack what the server asks of a node.

    Raises:
        WireError: If it is malformed.
    """
    return Join(_config(unpack(records).facts))


def read_joined(records: RecordDict, max_bytes: int = DEFAULT_MAX_BYTES) -> Joined | Failed:
    """Unpack a node's answer.

    Raises:
        WireError: If it is malformed.
    """
    facts = unpack(records, max_bytes).facts
    clients = facts.get("clients", [])
    if not isinstance(clients, list) or not all(type(client) is int for client in clients):
        raise WireError("it does not say which clients it holds")
    if "failure" in facts:
        return Failed(one_line(str(facts["failure"])), tuple(clients))
    if not clients:
        return Joined((), ())
    found = facts.get("fingerprints")
    if not isinstance(found, list) or [type(value) for value in found] != [str] * len(clients):
        raise WireError("it does not say which base model it has")
    return Joined(tuple(clients), tuple(found))


def read_work(records: RecordDict) -> Work:
    """Unpack what the server asks of a client.

    Raises:
        WireError: If it is malformed.
    """
    envelope = unpack(records)
    facts = envelope.facts
    config = _config(facts)
    fingerprint, final = facts.get("fingerprint"), facts.get("final")
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise WireError(f"the server's message names fingerprint={fingerprint!r}")
    if not isinstance(final, bool):
        raise WireError(f"the server's message says final={final!r}")
    if facts.get("phase") not in PHASES:
        raise WireError(f"the server's message is for phase={facts.get('phase')!r}")
    client_id, server_round = (_whole(facts, name) for name in ("client-id", "server-round"))
    return Work(config, client_id, server_round, facts["phase"], fingerprint, final, envelope.payload)


def read_done(
    records: RecordDict, client_id: int, server_round: int, max_bytes: int = DEFAULT_MAX_BYTES
) -> Done | Failed:
    """Unpack a client's reply.

    Args:
        records: What arrived.
        client_id: Who was asked; a reply that calls itself another is refused.
        server_round: Of which round.
        max_bytes: Largest payload accepted.

    Raises:
        WireError: If it is malformed.
    """
    envelope = unpack(records, max_bytes)
    return _done(envelope.facts, envelope.payload, client_id, server_round)


def peek_done(
    records: RecordDict, client_id: int, server_round: int, max_bytes: int = DEFAULT_MAX_BYTES
) -> Done | Failed:
    """The same without touching the arrays: its upload is empty.

    Raises:
        WireError: If it is malformed.
    """
    return _done(unpack_facts(records, max_bytes), Payload(), client_id, server_round)


def _done(facts: Mapping[str, Any], payload: Payload, client_id: int, server_round: int) -> Done | Failed:
    if "failure" in facts:
        return Failed(one_line(str(facts["failure"])), (client_id,))
    for name, wanted, says in (
        ("client-id", client_id, "it calls itself client"),
        ("server-round", server_round, "it answers round"),
    ):
        if type(facts.get(name)) is not int or facts[name] != wanted:
            raise WireError(f"{says} {facts.get(name)!r}")
    count = facts.get("num-examples")
    if type(count) is not int or not 0 < count < MAX_EXAMPLES:
        raise WireError(f"it reports num-examples={count!r}")
    return Done(
        client_id,
        server_round,
        count,
        _numbers(facts.get("metrics"), "it reports malformed metrics"),
        _rows(facts.get("rows")),
        _sizes(facts.get("about", {})),
        _number(facts.get("seconds", 0.0), "it reports malformed seconds"),
        payload,
    )


def _config(facts: Mapping[str, Any]) -> str:
    if not isinstance(facts.get("config"), str):
        raise WireError("the server's message has no config")
    return str(facts["config"])


def _whole(facts: Mapping[str, Any], name: str) -> int:
    value = facts.get(name)
    if type(value) is not int or value < 0:
        raise WireError(f"the server's message names {name}={value!r}")
    return value


def _number(value: Any, complaint: str) -> float:
    if type(value) not in (int, float):
        raise WireError(complaint)
    try:
        float(value)
    except OverflowError:  # an integer beyond any float
        raise WireError(complaint) from None
    return value  # type: ignore[no-any-return]


def _numbers(values: Any, complaint: str) -> Metrics:
    if not isinstance(values, dict):
        raise WireError(complaint)
    return {str(name): _number(value, complaint) for name, value in values.items()}


def _rows(rows: Any) -> tuple[Row, ...]:
    complaint = "it reports malformed scores"
    if not isinstance(rows, list) or len(rows) > MAX_ROWS or not all(isinstance(row, dict) for row in rows):
        raise WireError(complaint)
    return tuple(_row(dict(row), complaint) for row in rows)


def _row(row: dict[str, Any], complaint: str) -> Row:
    split, model, moment = (row.pop(name, None) for name in ("split", "model", "moment"))
    count = row.pop("num-examples", None)
    if not (isinstance(split, str) and isinstance(model, str) and isinstance(moment, str)):
        raise WireError(complaint)
    if type(count) is not int or not 0 <= count < MAX_EXAMPLES:
        raise WireError(complaint)
    if {"client-id", "server-round"} & set(row):  # whose they are follows from the message answered
        raise WireError(complaint)
    return Row(split, model, moment, count, _numbers(row, complaint))


def _sizes(about: Any) -> ClientSizes:
    complaint = "it reports malformed facts about itself"
    if not isinstance(about, dict) or not set(about) <= set(ClientSizes.__dataclass_fields__):
        raise WireError(complaint)
    tasks = about.get("tasks", [])
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise WireError(complaint)
    counts = {name: value for name, value in about.items() if name != "tasks"}
    if not all(type(value) is int and 0 <= value < MAX_EXAMPLES for value in counts.values()):
        raise WireError(complaint)
    return ClientSizes(**counts, tasks=tuple(tasks))
