"""A message served: one round's work for one client."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedapp.client.workplace import Workplace, workplace
from fedapp.core.types import Arrays, ClientFailure, count
from fedapp.records.adapter_file import write_adapter


def serve(phase: str, facts: Mapping[str, Any], download: Any, state: Arrays) -> tuple[dict[str, Any], Any]:
    """Do a round's work for one client.

    Args:
        phase: ``train`` or ``evaluate``.
        facts: The server's facts: config, client id, round, fingerprint.
        download: The payload for this client.
        state: The client's memory; changed in place.

    Returns:
        Facts of the reply, and the payload to send (None when evaluating).
    """
    started = time.monotonic()
    place = workplace(facts["config"], facts["client-id"])
    check_fingerprint(place, facts.get("fingerprint"), facts["client-id"])
    session = place.session(facts["client-id"], facts["server-round"], state, phase)
    routine = place.hostility.routine(place.routine, session.client_id, place.settings.seed)
    rows: list[dict[str, Any]] = []
    wanted = place.score
    session.scorer = lambda model, moment: rows.extend(
        place.rows(session, model, moment) if wanted[moment] else []
    )
    payload = None
    if phase == "train":
        if facts["server-round"] == 1 and wanted["base"]:
            with place.model.disabled():
                rows += place.rows(session, "base", "before")
        payload, metrics = routine.train(download, session)
    else:
        session.scorer = None
        routine.evaluate(download, session)
        metrics = dict(session.metrics)
        rows += place.rows(session, "final" if facts.get("final") else "current", "after")
    reply = {
        "num-examples": len(session.train_set),
        "metrics": metrics,
        "rows": rows,
        "seconds": time.monotonic() - started,
        "about": {
            "train": len(session.train_set),
            "validation": len(session.val_set),
            "test": len(session.test_set),
            "parameters": count(place.model.shapes()),
            "tasks": sorted({example.task for example in session.train_set}),
        },
    }
    return reply, payload


def check_fingerprint(place: Workplace, expected: Any, client_id: int) -> None:
    """Refuse to work on another base model than the run's.

    Raises:
        ClientFailure: If this node's base model is not the one that the server expects.
    """
    if expected is not None and expected != place.base.fingerprint:
        raise ClientFailure(
            f"client {client_id} has the base model {place.base.fingerprint[:16]}, "
            f"this run's is {str(expected)[:16]}"
        )


def save_adapter(place: Workplace, client_id: int, node_folder: str | None) -> None:
    """Keep the client's final adapter on the client's own machine.

    It goes below the node's ``output-dir``, else into the run folder where that is on this
    machine (a simulation). Parameters that a method does not share thus never leave the client.
    """
    run_dir = place.config.get("run_dir")
    folder = Path(node_folder) if node_folder else Path(run_dir) / "adapters" if run_dir else None
    if folder is None or not (node_folder or folder.parent.is_dir()):
        return
    write_adapter(
        folder / f"client-{client_id}", place.model.parameters(), place.config, place.base.fingerprint
    )
