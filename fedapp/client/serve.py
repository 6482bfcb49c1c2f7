"""A message served: one round's work for one client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from logging import getLogger
from pathlib import Path

from fedapp.client.keeping import write_about
from fedapp.client.repeats import warn_of_repeats
from fedapp.client.workplace import Workplace, read_config, workplace
from fedapp.core.method import ClientRoutine
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, count
from fedapp.records.adapter_file import digest_arrays, write_adapter
from fedapp.records.checkpoints import best
from fedapp.records.checkpoints.run import FOLDER
from fedapp.records.predictions import write_predictions
from fedapp.records.rows import NOT_METRICS
from fedapp.wire.messages import ClientSizes, Done, Join, Joined, Row, Work
from fedapp.wire.reading import MAX_CLIENTS

logger = getLogger("fedapp.party")


def join(message: Join, node_config: dict[str, object]) -> tuple[int, ...]:
    """The node's clients: its partition, and with fewer nodes than clients every n-th after it.

    Args:
        message: The server's.
        node_config: What the node was started with.

    Raises:
        ClientFailure: If the node does not say which partition it has.
    """
    if "partition-id" not in node_config:
        raise ClientFailure(
            "start the SuperNode with --node-config 'partition-id=<number of the client, from 0>'"
        )
    num_clients = read_config(message.config).run.num_clients
    if num_clients > MAX_CLIENTS:
        raise ClientFailure(f"num_clients={num_clients} must be at most {MAX_CLIENTS}")
    first, step = (
        int(str(node_config["partition-id"])),
        int(str(node_config.get("num-partitions", num_clients))),
    )
    return tuple(range(first, num_clients, max(step, 1)))


def require_own(message: Work, node_config: dict[str, object]) -> None:
    """Refuse work for a client that is another node's.

    Raises:
        ClientFailure: If it is.
    """
    if message.client_id not in join(Join(message.config), node_config):
        raise ClientFailure(f"client {message.client_id} is not this node's")


def open_workplaces(message: Join, clients: tuple[int, ...]) -> Joined:
    """Open all that a round of these clients needs.

    Raises:
        ClientFailure, ValueError: If one of them cannot take part.
    """
    fingerprints, examples = [], []
    for client_id in clients:
        place = workplace(message.config, client_id)
        place.check_answers(client_id)
        data = place.setup.data(client_id)
        warn_of_repeats(client_id, data)
        examples.append(len(data.train))
        fingerprints.append(place.base.fingerprint)
    return Joined(clients, tuple(fingerprints), tuple(examples))


def serve(work: Work, state: Arrays, output_dir: str | None = None) -> Done:
    """Do a round's work for one client.

    Args:
        work: What the server asks for.
        state: The client's memory; changed in place.
        output_dir: Folder of the node for final adapters, if it has one.

    Raises:
        ClientFailure, ValueError: If that cannot be done; the text is shown to the user by the server.
    """
    started, processed = time.monotonic(), time.process_time()
    place = workplace(work.config, work.client_id)
    check_fingerprint(place, work.fingerprint, work.client_id)
    session = place.session(work.client_id, work.server_round, state, work.phase)
    routine = place.setup.hostility.routine(place.setup.routine, work.client_id, place.setup.config.run.seed)
    rows: list[Row] = []
    upload, metrics = Payload(), Metrics()
    if work.phase == "open":
        upload = routine.open(session)
    elif work.phase == "train":
        upload, metrics = _train(place, routine, work, session, rows)
    else:
        routine.evaluate(work.download, session)
        metrics = dict(session.metrics)
        if work.final:
            rows += _finish(place, session, output_dir)
        else:
            rows += place.scorer.rows(session, "current", "after")
        _keep_rounds(place, work, output_dir)
    return Done(
        client_id=work.client_id,
        server_round=work.server_round,
        num_examples=len(session.train_set),
        metrics=metrics,
        rows=tuple(rows),
        sizes=ClientSizes(
            train=len(session.train_set),
            validation=len(session.val_set),
            test=len(session.test_set),
            parameters=count(place.model.shapes()),
            tasks=tuple(sorted({example.task for example in session.train_set})),
        ),
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - processed,
        upload=upload,
    )


def _train(
    place: Workplace, routine: ClientRoutine, work: Work, session: ClientSession, rows: list[Row]
) -> tuple[Payload, Metrics]:
    """Train, with the scores on the way that the config asks for put into ``rows``."""
    score = place.setup.score
    if work.server_round == 1 and score.base:
        with place.model.disabled():
            rows += place.scorer.rows(session, "base", "before")

    def note(model: str, moment: str) -> None:
        if score.wants(moment):
            rows.extend(place.scorer.rows(session, model, moment))

    session.scorer = note
    return routine.train(work.download, session)


def check_fingerprint(place: Workplace, expected: str | None, client_id: int) -> None:
    """Refuse to work on another base model than the run's.

    Raises:
        ClientFailure: If this node's base model is not the one that the server expects.
    """
    if expected is not None and expected != place.base.fingerprint:
        raise ClientFailure(f"client {client_id} has another base model than this run's, {expected[:16]}")


def _finish(place: Workplace, session: ClientSession, output_dir: str | None) -> list[Row]:
    """Score the final model, and keep what the config says is kept of it."""
    rows, predictions = place.scorer.final_rows(session)
    digest = digest_arrays(place.model.parameters(), place.base.fingerprint)
    rows = [replace(row, digest=digest) for row in rows]
    if place.setup.config["save_adapters"]:
        save_adapter(place, session.client_id, output_dir, rows)
    folder = own_folder(place, session.client_id, output_dir)
    if place.setup.config["save_predictions"] and folder is not None:
        write_predictions(folder, predictions)
    if folder is not None and (place.setup.config["save_adapters"] or place.setup.score.matrix):
        write_about(folder, place, session)
    return rows


def own_folder(place: Workplace, client_id: int, output_dir: str | None) -> Path | None:
    """Where a client keeps what is its own: below the node's ``output-dir``, else in the run folder where
    that is on this machine (a simulation); None where there is neither.
    """
    run_dir = place.setup.config.get("run_dir")
    folder = Path(output_dir) if output_dir else Path(run_dir) / "adapters" if run_dir else None
    if folder is None or not (output_dir or folder.parent.is_dir()):
        return None
    return folder / f"client-{client_id}"


def memory_folder(work: Work, named: str | None) -> Path | None:
    """Where a client keeps its memory of a run between rounds.

    Args:
        work: What the server asks for.
        named: The folder of the party's policy; in it, each run has its own.

    Returns:
        A folder that may not be there yet: below that one, in a simulation in the run folder. None where
        there is neither, or the run is not to go on should it stop.
    """
    run_dir = read_config(work.config).get("run_dir")
    client = f"client-{work.client_id}"
    if not work.run:
        return None
    if named is not None:
        return Path(named) / work.run / client
    return Path(run_dir) / FOLDER / client if run_dir and Path(run_dir).is_dir() else None


def _keep_rounds(place: Workplace, work: Work, output_dir: str | None) -> None:
    """Keep the client's adapter as it is after this round, and those of other rounds, as the server says."""
    folder = own_folder(place, work.client_id, output_dir)
    if folder is None or not place.setup.config["save_adapters"]:
        return
    if work.server_round in work.keep:
        kept = best.round_folder(folder, work.server_round)
        write_adapter(kept, place.model.parameters(), place.setup.config, place.base.fingerprint)
    best.prune_rounds(folder, work.keep)


def save_adapter(place: Workplace, client_id: int, output_dir: str | None, rows: Sequence[Row] = ()) -> None:
    """Keep the client's final adapter on the client's own machine, with the scores of its final model.

    Parameters that a method does not share thus never leave the client.
    """
    folder = own_folder(place, client_id, output_dir)
    if folder is not None:
        scores = [
            {"split": row.split, "num-examples": row.num_examples}
            | {name: value for name, value in row.scores.items() if name not in NOT_METRICS}
            for row in rows
        ]
        write_adapter(folder, place.model.parameters(), place.setup.config, place.base.fingerprint, scores)
