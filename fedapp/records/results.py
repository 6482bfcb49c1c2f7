"""What finished runs come to, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedapp.core.errors import one_line
from fedapp.core.status import COMPLETED, FAILED, has_died, how_it_died
from fedapp.records.answering import answering_of
from fedapp.records.pooling import Pooled
from fedapp.records.rows import NOT_METRICS, ScoreRow, TrafficRow
from fedapp.records.summary import RunSummary, hostile_clients, summarise


@dataclass(frozen=True)
class RunResult:
    """What one finished run comes to.

    Attributes:
        folder: The run folder.
        config: Its composed config.
        seed: Its seed.
        summary: Its scores and bytes, by the metric asked for.
        scores: The metric of the final models on the test split, by honest client.
        base: The base model's, by client; empty where it was not scored.
        parameters: Numbers that each client trains; empty where the run does not say.
        seconds: Wall time.
        answering: By which rule its models answer.
        pooled: What the final models reach on the test rows of all clients together.
        cpu_seconds: Processor time of all clients; None where the run does not say.
        about: Its run.json.
        rows: Of metrics.jsonl.
        traffic: Of traffic.jsonl.
    """

    folder: Path
    config: Mapping[str, Any]
    seed: int
    summary: RunSummary
    scores: Mapping[int, float]
    base: Mapping[int, float]
    parameters: Sequence[int]
    seconds: float
    answering: str
    pooled: Pooled
    cpu_seconds: float | None
    about: Mapping[str, Any]
    rows: Sequence[ScoreRow]
    traffic: Sequence[TrafficRow]


def read_finished(root: Path, warn: Callable[[str], None], metric: str | None = None) -> Iterator[RunResult]:
    """Read the finished runs below a folder.

    Args:
        root: A run folder, or a folder with run folders somewhere below.
        warn: Told in one line of each run that cannot be read, or has not ended.
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
            yield result


def validation_score(run_dir: Path) -> float | None:
    """What an optimiser goes by: the mean score on validation data, at the best round of those evaluated.

    None where the run has no such score.

    Raises:
        ValueError: If summary.json is missing or damaged.
    """
    summary = _parsed(run_dir / "summary.json", json.loads)
    for place in ("best-round", "final"):
        score = (summary.get(place) or {}).get("mean-validation-score")
        if score is not None:
            return float(score)
    return None


def objective(run_dir: Path, name: str) -> float | None:
    """What a search goes by.

    Args:
        run_dir: The folder of a complete run.
        name: ``validation-score``, a fraction; ``payload-bytes``, ``sent-bytes``, ``received-bytes``;
            ``cpu-seconds``, seconds.

    Returns:
        None where the run does not say.

    Raises:
        ValueError: If summary.json is missing or damaged.
    """
    if name == "validation-score":
        return validation_score(run_dir)
    total = _parsed(run_dir / "summary.json", json.loads).get("total") or {}
    parts = ("sent-bytes", "received-bytes") if name == "payload-bytes" else (name,)
    values = [float(total[part]) for part in parts if total.get(part) is not None]
    return sum(values) if len(values) == len(parts) else None


def _read(path: Path, wanted: str | None) -> RunResult:
    """The run that a run.json belongs to.

    Raises:
        ValueError: If the run was killed or has not ended, a file is missing or damaged, or there are no
            final scores.
        LookupError, TypeError, AttributeError: If a file holds something else.
    """
    folder = path.parent
    about = _parsed(path, json.loads)
    if has_died(folder):
        raise ValueError(f"the run died, {how_it_died(folder)}")
    if about.get("status") == FAILED:
        raise ValueError(f"the run failed, {about.get('reason') or 'no reason given'}")
    if about.get("status") != COMPLETED:
        raise ValueError(f"the run has not ended, it is {about.get('status')}")
    config = _parsed(folder / "config.yaml", _load_yaml)
    rows = [ScoreRow.from_json(row) for row in _lines(folder / "metrics.jsonl")]
    traffic = [TrafficRow.from_json(row) for row in _lines(folder / "traffic.jsonl")]
    summary = summarise(rows, {}, traffic, hostile_clients(config), wanted)
    tests = (row for row in rows if row.split == "test" and row.client_id not in summary.hostile)
    known = {name: None for row in tests for name in row.metrics if name not in NOT_METRICS}
    if not known:
        raise ValueError("metrics.jsonl holds no scores on the test split")
    if summary.metric not in known:
        raise ValueError(
            f"metrics.jsonl holds no {summary.metric} on the test split; it has: {', '.join(known)}"
        )
    scores, base = (summary.scores(name) for name in ("final-score", "base-score"))
    if not scores:
        raise ValueError("metrics.jsonl holds no scores of the final models")
    path = folder / "summary.json"
    said = _parsed(path, json.loads) if path.exists() else {}
    return RunResult(
        folder,
        config,
        int(config["seed"]),
        summary,
        scores,
        base,
        # No row of the other files says how many numbers each client trains, or what its work took.
        [int(one["parameters"]) for one in said.get("clients", []) if one["parameters"] is not None],
        float(about["seconds"]),
        answering_of(config, _is_labelled(config, summary)),
        summary.pooled,
        said.get("total", {}).get("cpu-seconds"),
        about,
        rows,
        traffic,
    )


def _is_labelled(config: Mapping[str, Any], summary: RunSummary) -> bool:
    """Whether the benchmark has labels: its config names them, or clients have counted answers by label."""
    return bool(config["benchmark"].get("labels")) or any(row.counts for row in summary.final_rows)


def _load_yaml(text: str) -> Any:
    # libyaml's loader where PyYAML has it: a config takes 30 ms by the one in Python.
    return yaml.load(text, Loader=yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader)


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
