"""Messages unpacked and checked, in the one place where that happens.

Neither side believes the other: whatever arrives is checked for its names, types and ranges, and a
message that is wrong in any way is refused as a whole, by a ``WireError``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from flwr.app import RecordDict

from fedapp.core.errors import one_line
from fedapp.core.method import Phase
from fedapp.core.payload import Payload
from fedapp.core.types import MAX_LABELS, LabelCounts, Metrics
from fedapp.wire.limits import DEFAULT, Limits, WireError, parse_json
from fedapp.wire.messages import (
    COUNTS,
    DIGEST,
    MODELS,
    MOMENTS,
    SPLITS,
    ClientSizes,
    Done,
    Failed,
    Join,
    Joined,
    Row,
    Work,
)
from fedapp.wire.ranges import SLACK, is_name, metric_range, score_range, within
from fedapp.wire.records import require_own, show, unpack, unpack_facts

MAX_CLIENTS = 100_000
MAX_ROWS = 64
MAX_METRICS = 64
MAX_TASKS = 10_000
NAMED = "the server's message names"
MAX_NAME = 256
MAX_CONFIG_VALUES = 100_000
MAX_CONFIG_DEPTH = 40
MAX_SECONDS = 1e9
PHASES = get_args(Phase)


def read_join(records: RecordDict) -> Join:
    """Unpack what the server asks of a node.

    Raises:
        WireError: If it is malformed.
    """
    require_own(records)
    return Join(_config(unpack(records).facts))


def read_joined(records: RecordDict, limits: Limits = DEFAULT) -> Joined | Failed:
    """Unpack a node's answer.

    Raises:
        WireError: If it is malformed.
    """
    require_own(records)
    facts = unpack(records, limits).facts
    clients = facts.get("clients", [])
    if not isinstance(clients, list) or not all(type(c) is int and abs(c) < 2**31 for c in clients):
        raise WireError("it does not say which clients it holds")
    if len(clients) > MAX_CLIENTS or len(set(clients)) < len(clients):
        raise WireError(f"it says more than once that it holds a client, or more than {MAX_CLIENTS}")
    if "failure" in facts:
        return Failed(_failure(facts), tuple(clients))
    if not clients:
        return Joined((), (), ())
    found, examples = facts.get("fingerprints"), facts.get("examples")
    if not isinstance(found, list) or not all(isinstance(f, str) and len(f) <= MAX_NAME for f in found):
        raise WireError("it does not say which base model it has")
    if not isinstance(examples, list) or not all(type(n) is int and n >= 0 for n in examples):
        raise WireError("it does not say how many training rows its clients have")
    if not len(clients) == len(found) == len(examples):
        raise WireError("it does not say base model and training rows of each client that it holds")
    for client, count in zip(clients, examples, strict=True):
        if count > limits.examples:
            raise WireError(
                f"client {client} says that it has {show(count)} training rows, "
                f"more than max_examples={limits.examples}"
            )
    return Joined(tuple(clients), tuple(found), tuple(examples))


def read_work(records: RecordDict) -> Work:
    """Unpack what the server asks of a client.

    Raises:
        WireError: If it is malformed.
    """
    require_own(records)
    envelope = unpack(records, finite=True)
    facts = envelope.facts
    config = _config(facts)
    fingerprint, final, phase = (facts.get(name) for name in ("fingerprint", "final", "phase"))
    if fingerprint is not None and not (isinstance(fingerprint, str) and len(fingerprint) <= MAX_NAME):
        raise WireError(f"the server's message names fingerprint={show(fingerprint)}")
    if not isinstance(final, bool):
        raise WireError(f"the server's message says final={show(final)}")
    if not isinstance(phase, str) or phase not in PHASES:
        raise WireError(f"the server's message is for phase={show(phase)}")
    client_id, server_round = (_whole(facts, name) for name in ("client-id", "server-round"))
    asked_last = _whole_or_none(facts, "asked-last")
    run = facts.get("run", "")
    if not isinstance(run, str) or not re.fullmatch(r"([0-9a-f]{16})?", run):  # it names a folder
        raise WireError(f"the server's message names run={show(run)}")
    about = (config, client_id, server_round, phase, fingerprint, final, envelope.payload)
    keep = facts.get("keep", [])
    if not isinstance(keep, list) or not all(type(one) is int and 0 < one < 2**31 for one in keep):
        raise WireError(f"the server's message names keep={show(keep)}")
    return Work(*about, asked_last, run, tuple(keep))  # type: ignore[arg-type]


def read_done(
    records: RecordDict, client_id: int, server_round: int, phase: Phase, limits: Limits = DEFAULT
) -> Done | Failed:
    """Unpack a client's reply.

    Args:
        records: What arrived.
        client_id: Who was asked; a reply that calls itself another is refused.
        server_round: Of which round.
        phase: What for.
        limits: Most that is accepted.

    Raises:
        WireError: If it is malformed.
    """
    require_own(records)
    envelope = unpack(records, limits, finite=True)
    return _done(envelope.facts, envelope.payload, client_id, server_round, phase, limits)


def peek_done(
    records: RecordDict, client_id: int, server_round: int, phase: Phase, limits: Limits = DEFAULT
) -> Done | Failed:
    """The same without touching the arrays: its upload is empty.

    Raises:
        WireError: If it is malformed.
    """
    require_own(records)
    return _done(unpack_facts(records, limits), Payload(), client_id, server_round, phase, limits)


def _done(
    facts: Mapping[str, Any],
    payload: Payload,
    client_id: int,
    server_round: int,
    phase: Phase,
    limits: Limits,
) -> Done | Failed:
    if "failure" in facts:
        return Failed(_failure(facts), (client_id,))
    for name, wanted, says in (
        ("client-id", client_id, "it calls itself client"),
        ("server-round", server_round, "it answers round"),
    ):
        if type(facts.get(name)) is not int or facts[name] != wanted:
            raise WireError(f"{says} {show(facts.get(name))}")
    count = facts.get("num-examples")
    if type(count) is not int or count < 1:
        raise WireError(f"it reports num-examples={show(count)}")
    if count > limits.examples:
        raise WireError(f"it reports num-examples={show(count)}, more than max_examples={limits.examples}")
    return Done(
        client_id,
        server_round,
        count,
        _metrics(facts.get("metrics")),
        _rows(facts.get("rows"), phase, limits),
        _sizes(facts.get("about", {}), limits),
        _number("times", "seconds", facts.get("seconds", 0.0), (0.0, MAX_SECONDS)),
        _number("times", "cpu-seconds", facts.get("cpu-seconds", 0.0), (0.0, MAX_SECONDS)),
        payload,
        _whole_or_none(facts, "remembers", "it reports"),
    )


def _failure(facts: Mapping[str, Any]) -> str:
    if not isinstance(facts["failure"], str):
        raise WireError("it reports a failure that is no text")
    return one_line(facts["failure"]) or "it failed and does not say why"


def _config(facts: Mapping[str, Any]) -> str:
    """The config's text, which must be JSON that can be parsed without harm."""
    config = facts.get("config")
    if not isinstance(config, str):
        raise WireError("the server's message has no config")
    parse_json(config.encode("utf-8", "surrogatepass"), MAX_CONFIG_VALUES, MAX_CONFIG_DEPTH)
    return config


def _whole_or_none(facts: Mapping[str, Any], name: str, says: str = NAMED) -> int | None:
    return None if facts.get(name) is None else _whole(facts, name, says)


def _whole(facts: Mapping[str, Any], name: str, says: str = NAMED) -> int:
    value = facts.get(name)
    if type(value) is not int or not 0 <= value < 2**31:
        raise WireError(f"{says} {name}={show(value)}")
    return value


def _number(what: str, name: str, value: Any, bounds: tuple[float, float]) -> float:
    """A number in a range; whole numbers beyond any float are in none."""
    if type(value) not in (int, float) or not within(value, bounds):
        low, high = (f"{bound:.4g}" for bound in bounds)
        raise WireError(
            f"it reports malformed {what}: {name}={show(value)} must be a number from {low} to {high}"
        )
    return value  # type: ignore[no-any-return]


def _metrics(values: Any) -> Metrics:
    if not isinstance(values, dict):
        raise WireError("it reports malformed metrics: they must be an object")
    _check_names("metrics", values)
    return {name: _number("metrics", name, value, metric_range(name)) for name, value in values.items()}


def _check_names(what: str, values: Mapping[str, Any]) -> None:
    if len(values) > MAX_METRICS:
        raise WireError(f"it reports malformed {what}: more than {MAX_METRICS}")
    for name in values:
        if not is_name(name):
            raise WireError(f"it reports malformed {what}: one is called {show(name)}")


def _rows(rows: Any, phase: Phase, limits: Limits) -> tuple[Row, ...]:
    if not isinstance(rows, list) or len(rows) > MAX_ROWS or not all(isinstance(row, dict) for row in rows):
        raise WireError(f"it reports malformed scores: they must be a list of at most {MAX_ROWS} objects")
    return tuple(_row(dict(row), phase, limits) for row in rows)


def _row(row: dict[str, Any], phase: Phase, limits: Limits) -> Row:
    head = {"split": SPLITS, "model": MODELS[phase], "moment": MOMENTS}
    for name, known in head.items():
        if not isinstance(row.get(name), str) or row[name] not in known:
            said = show(row[name]) if name in row else "none"
            raise WireError(f"it reports malformed scores: {name} {said} is none of {', '.join(known)}")
    split, model, moment = (row.pop(name) for name in head)
    count = _count("num-examples", row.pop("num-examples", None), limits.examples)
    if whose := sorted({"client-id", "server-round"} & set(row)):  # that follows from the message answered
        raise WireError(f"it reports malformed scores: a row with its own {whose[0]}")
    digest, counts = row.pop(DIGEST, ""), row.pop(COUNTS, [])
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{16}|", digest):
        raise WireError(f"it reports malformed scores: {DIGEST} {show(digest)}")
    _check_names("scores", row)
    scores = {name: _number("scores", name, value, score_range(name)) for name, value in row.items()}
    return Row(split, model, moment, count, scores, _label_counts(counts, count, scores), digest)


def _label_counts(counts: Any, num_examples: int, scores: Metrics) -> LabelCounts:
    """Answers by target: a row a label, a column more, all rows counted once, and right as often as said."""
    if counts == []:
        return ()
    malformed = f"it reports malformed scores: {COUNTS}"
    if not isinstance(counts, list) or not 2 <= len(counts) <= MAX_LABELS:
        raise WireError(f"{malformed} must be a list for each of 2 to {MAX_LABELS} labels")
    if not all(isinstance(row, list) and len(row) == len(counts) + 1 for row in counts):
        raise WireError(f"{malformed} must be lists of {len(counts) + 1} numbers each")
    if not all(type(value) is int and 0 <= value <= num_examples for row in counts for value in row):
        raise WireError(f"{malformed} must be whole numbers from 0 to num-examples={num_examples}")
    total, right = sum(map(sum, counts)), sum(row[label] for label, row in enumerate(counts))
    if total != num_examples:
        raise WireError(f"{malformed} count {total} rows, and num-examples={num_examples}")
    said = scores.get("accuracy")
    if said is not None and total and abs(said - right / total) > SLACK:
        raise WireError(f"{malformed} have {right} of {total} right, and accuracy={said:.6g}")
    return tuple(map(tuple, counts))


def _count(name: str, value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"it reports {name}={show(value)}, which must be a whole number from 0 to {most}")
    return value


def _sizes(about: Any, limits: Limits) -> ClientSizes:
    complaint = "it reports malformed facts about itself"
    if not isinstance(about, dict) or not set(about) <= set(ClientSizes.__dataclass_fields__):
        raise WireError(complaint)
    tasks = about.get("tasks", [])
    if not isinstance(tasks, list) or not all(isinstance(t, str) and len(t) <= MAX_NAME for t in tasks):
        raise WireError(f"{complaint}: tasks must be a list of names of at most {MAX_NAME} characters")
    if len(tasks) > MAX_TASKS:
        raise WireError(f"{complaint}: {len(tasks)} tasks, more than {MAX_TASKS}")
    most = dict.fromkeys(("train", "validation", "test"), limits.examples) | {"parameters": 2**40}
    counts = {name: _count(name, about[name], most[name]) for name in about if name != "tasks"}
    return ClientSizes(**counts, tasks=tuple(tasks))
