"""Run folders made by hand, for comparisons and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedapp.records.rows import TrafficRow


def made_run(
    folder: Path,
    rounds: Sequence[Sequence[float]],
    *,
    seed: int = 1,
    config: Mapping[str, Any] | None = None,
    num_bytes: int = 100,
    base: Sequence[float] = (),
    num_examples: int = 20,
) -> Path:
    """A finished run that was evaluated after every round.

    Args:
        folder: To make.
        rounds: Accuracy of each client after each round; the last is the final model's.
        seed: Of the run.
        config: Nodes of its config.
        num_bytes: Payload that each client sends in a round; it receives as much.
        base: Accuracy of the base model by client.
        num_examples: Test rows of each client.
    """
    folder.mkdir(parents=True)
    names = {"method": "fedreft", "benchmark": "embedded", "adapter": "loreft"}
    tree = {"seed": seed, **{key: {"about": {"name": name}} for key, name in names.items()}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    about = {"status": "completed", "seconds": 2.0, "seed": seed, "warnings": [], "overrides": []}
    (folder / "run.json").write_text(json.dumps(about))
    head = {"split": "test", "moment": "after", "num-examples": num_examples}
    rows = [
        {
            **head,
            "server-round": 1,
            "client-id": client,
            "model": "base",
            "moment": "before",
            "accuracy": score,
        }
        for client, score in enumerate(base)
    ]
    traffic = []
    for number, scores in enumerate(rounds, start=1):
        model = "final" if number == len(rounds) else "current"
        for client, score in enumerate(scores):
            rows.append(
                {**head, "server-round": number, "client-id": client, "model": model, "accuracy": score}
            )
            for way in ("down", "up"):
                traffic.append(TrafficRow(number, client, "train", way, num_bytes, num_bytes + 9).to_json())
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "traffic.jsonl", traffic)
    return folder


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def named(**names: str) -> dict[str, Any]:
    """Nodes of a config with these names, as ``named(method="fedit")``."""
    return {group: {"about": {"name": name}} for group, name in names.items()}
