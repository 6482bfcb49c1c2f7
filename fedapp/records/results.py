"""What finished runs come to, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedapp.core.errors import one_line
from fedapp.records.rows import main_metric
from fedapp.records.summary import BestRound, best_round, hostile_clients


@dataclass(frozen=True)
class RunResult:
    """What one finished run comes to.

    Attributes:
        folder: The run folder.
        config: Its composed config.
        seed: Its seed.
        metric: What is reported.
        scores: The metric of the final models on the test split, by honest client.
        base: The base model's, by client; empty where it was not scored.
        parameters: Numbers that each client trains; empty where the run does not say.
        sent, received: Payload bytes of all clients in all rounds.
        seconds: Wall time.
        hostile: Clients that the run made hostile.
        best: The round that is best on validation data; None where there is nothing to choose from.
    """

    folder: Path
    config: Mapping[str, Any]
    seed: int
    metric: str
    scores: Mapping[int, float]
    base: Mapping[int, float]
    parameters: Sequence[int]
    sent: int
    received: int
    seconds: float
    hostile: Sequence[int] = ()
    best: BestRound | None = None


def finished(root: Path, warn: Callable[[str], None], metric: str | None = None) -> Iterator[RunResult]:
    """Read the finished runs below a folder.

    Args:
        root: A run folder, or a folder with run folders somewhere below.
        warn: Told in one line of each run that cannot be read.
        metric: What to report; None for the benchmark's first metric.
    """
    for path in sorted(root.rglob("run.json")):
        try:
            result = _read(path, metric)
        except ValueError as error:
            warn(f"{path.parent} is left out: {one_line(error)}")
        except (LookupError, TypeError, AttributeError):
            warn(f"{path.parent} is left out: its files are not those of a finished run")
        else:
            if result is not None:
                yield result


def _read(path: Path, wanted: str | None) -> RunResult | None:
    """The run that a run.json belongs to, None if it is not complete.

    Raises:
        ValueError: If a file is missing or damaged, or there are no final scores.
        LookupError, TypeError, AttributeError: If a file holds something else.
    """
    folder = path.parent
    about = _parsed(path, json.loads)
    if about.get("status") != "completed":
        return None
    config = _parsed(folder / "config.yaml", yaml.safe_load)
    hostile = hostile_clients(config)
    honest = [row for row in _lines(folder / "metrics.jsonl") if row["client-id"] not in hostile]
    rows = [row for row in honest if row["split"] == "test"]
    metric = wanted or main_metric(rows)
    if metric is None:
        raise ValueError("metrics.jsonl holds no scores on the test split")
    rows = [row for row in rows if metric in row]
    if not rows:
        raise ValueError(f"metrics.jsonl holds no {metric} on the test split")
    scores = {int(r["client-id"]): float(r[metric]) for r in rows if r["model"] == "final"}
    base = {int(r["client-id"]): float(r[metric]) for r in rows if r["model"] == "base"}
    if not scores:
        raise ValueError("metrics.jsonl holds no scores of the final models")
    traffic = _lines(folder / "traffic.jsonl")
    sent, received = (
        sum(r["payload-bytes"] for r in traffic if r["direction"] == way) for way in ("up", "down")
    )
    summary = folder / "summary.json"
    trained = _parsed(summary, json.loads).get("parameters", {}) if summary.exists() else {}
    return RunResult(
        folder,
        config,
        int(config["seed"]),
        metric,
        scores,
        base,
        [int(count) for count in trained.values()],
        sent,
        received,
        float(about["seconds"]),
        hostile,
        best_round(honest, metric),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return _parsed(path, lambda text: [json.loads(line) for line in text.splitlines()])


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, yaml.YAMLError):
        raise ValueError(f"{path.name} is damaged") from None
