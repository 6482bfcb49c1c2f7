"""What a client keeps of its own rows, and of its final model's scores on everybody's, in ``client.json``.

Nothing of it is sent. In a simulation it lies in the run folder, where ``fedapp report`` finds it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedapp.client.workplace import Workplace
from fedapp.core.files import write_atomically, writing
from fedapp.core.session import ClientSession
from fedapp.core.types import Example

FILE = "client.json"


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


def write_about(folder: Path, place: Workplace, session: ClientSession) -> None:
    """Write ``client.json``, whole or not at all.

    Args:
        folder: The client's own.
        place: Its workplace, the model in its final state.
        session: Of the run's last message.
    """
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
