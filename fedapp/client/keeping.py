"""What a client keeps on its own machine at the end: its adapter, what it said, and which rows it has.

Nothing of it is sent. In a simulation it lies in the run folder, where ``fedapp report`` finds it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedapp.client.workplace import Workplace
from fedapp.core.files import write_atomically, writing
from fedapp.core.session import ClientSession
from fedapp.core.types import Example
from fedapp.records.adapter_file import digest_arrays, write_adapter
from fedapp.records.predictions import write_predictions
from fedapp.wire.messages import Row

FILE = "client.json"


def finish(place: Workplace, session: ClientSession, output_dir: str | None) -> list[Row]:
    """Score the final model, and keep what the config says is kept of it.

    Args:
        place: The client's workplace, its model in the final state.
        session: Of the run's last message.
        output_dir: Folder of the node, if it has one.
    """
    rows, predictions = place.scorer.final_rows(session)
    digest = digest_arrays(place.model.parameters(), place.base.fingerprint)
    rows = [replace(row, digest=digest) for row in rows]
    config = place.setup.config
    folder = own_folder(place, session.client_id, output_dir)
    if folder is None:
        return rows
    if config["save_adapters"]:
        write_adapter(folder, place.model.parameters(), config, place.base.fingerprint)
    if config["save_predictions"]:
        write_predictions(folder, predictions)
    if config["save_adapters"] or place.setup.score.matrix:
        _write_about(folder, place, session)
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


def count_rows(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many rows there are of each task, and of each label where rows have one.

    Args:
        examples: Rows of one split.
        labels: The benchmark's label words.
    """
    tasks = Counter(example.task for example in examples)
    named = Counter(labels[example.label] for example in examples if example.label is not None and labels)
    return {"by-task": dict(sorted(tasks.items())), "by-label": {word: named[word] for word in labels}}


def cross_scores(place: Workplace, num_clients: int) -> dict[str, dict[str, float]]:
    """Scores of the model as it stands on every client's test rows: by metric, then by client."""
    found: dict[str, dict[str, float]] = {}
    for other in range(num_clients):
        scores = place.scorer.scores_on(place.setup.data(other).test)
        for name, score in scores.items():
            found.setdefault(name, {})[str(other)] = score
    return found


def _write_about(folder: Path, place: Workplace, session: ClientSession) -> None:
    """Write ``client.json``, whole or not at all."""
    setup = place.setup
    sets = {"train": session.train_set, "validation": session.val_set, "test": session.test_set}
    labels = tuple(setup.benchmark.labels or ())
    about: Mapping[str, Any] = {
        "client-id": session.client_id,
        "rows": {split: count_rows(examples, labels) for split, examples in sets.items()},
        "cross-scores": cross_scores(place, setup.config.run.num_clients) if setup.score.matrix else {},
    }
    with writing(folder / FILE):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, json.dumps(about, indent=1) + "\n")
