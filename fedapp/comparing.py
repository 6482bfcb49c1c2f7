"""``fedapp compare``: finished runs side by side, seeds together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from fedapp.summary import main_metric, size

# What may differ between runs that are repetitions of one another.
NOT_COMPARED = {"seed", "run_dir", "runs_dir", "engine", "save_adapters", "join_timeout", "round_timeout"}
NAMED = ("benchmark", "partitioner", "method", "adapter", "model")


@dataclass(frozen=True)
class RunResult:
    """What one finished run comes to.

    Attributes:
        folder: The run folder.
        config: Its composed config.
        seed: Its seed.
        scores: Final main metric on the test split, by client.
        base: The base model's, by client; empty where it was not scored.
        sent, received: Payload bytes of all clients in all rounds.
        seconds: Wall time.
    """

    folder: Path
    config: Mapping[str, Any]
    seed: int
    scores: Mapping[int, float]
    base: Mapping[int, float]
    sent: int
    received: int
    seconds: float


def compare(roots: Sequence[Path], stream: TextIO) -> None:
    """Print a table: a row per configuration, mean and standard deviation over its seeds.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        stream: Where to print.

    Raises:
        ValueError: If there is no finished run.
    """
    results = [result for root in roots for result in _finished(root)]
    if not results:
        raise ValueError(f"no finished run in {', '.join(map(str, roots))}")
    groups = _grouped(results)
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, width=None if stream.isatty() else 160)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("configuration", "seeds", "mean", "worst client", "base", "sent", "received", "time"):
        table.add_column(column, justify="left" if column == "configuration" else "right", overflow="fold")
    for label, runs in groups:
        table.add_row(label, *_cells(runs))
    console.print(table)
    note = (
        "final models on each client's own test split, in %: mean over seeds ± standard deviation over seeds"
    )
    console.print(note, highlight=False)


def _cells(runs: Sequence[RunResult]) -> list[str]:
    def over_seeds(values: Sequence[float]) -> str:
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * statistics.fmean(values):.1f}{spread}"

    base = [statistics.fmean(run.base.values()) for run in runs if run.base]
    return [
        " ".join(str(run.seed) for run in runs),
        over_seeds([statistics.fmean(run.scores.values()) for run in runs]),
        over_seeds([min(run.scores.values()) for run in runs]),
        over_seeds(base) if base else "–",
        size(statistics.fmean(run.sent for run in runs)),
        size(statistics.fmean(run.received for run in runs)),
        f"{statistics.fmean(run.seconds for run in runs):.0f} s",
    ]


def _finished(root: Path) -> Iterator[RunResult]:
    for path in sorted(root.rglob("run.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about.get("status") != "completed":
            continue
        folder = path.parent
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        rows = [row for row in _lines(folder / "metrics.jsonl") if row["split"] == "test"]
        metric = main_metric(rows)
        if metric is None:
            continue
        scores = {r["client-id"]: r[metric] for r in rows if r["model"] == "final"}
        base = {r["client-id"]: r[metric] for r in rows if r["model"] == "base"}
        traffic = _lines(folder / "traffic.jsonl")
        sent, received = (
            sum(r["payload-bytes"] for r in traffic if r["direction"] == way) for way in ("up", "down")
        )
        if scores:
            yield RunResult(folder, config, config["seed"], scores, base, sent, received, about["seconds"])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _grouped(results: Sequence[RunResult]) -> list[tuple[str, list[RunResult]]]:
    """Runs that differ in their seed alone, together; the label says what tells groups apart."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        kept = {key: value for key, value in _flat(result.config) if key.split(".")[0] not in NOT_COMPARED}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(result)
    trees = [json.loads(key) for key in groups]
    names = {f"{group}.name" for group in NAMED}
    # A setting that a named choice brings along is said by its name; one that differs between runs
    # of the same names was set by hand.
    labelled = []
    for tree, runs in zip(trees, groups.values(), strict=True):
        own = [tree.get(name) for name in sorted(names)]
        twins = [other for other in trees if [other.get(name) for name in sorted(names)] == own]
        set_by_hand = sorted(key for key in tree if any(other.get(key) != tree[key] for other in twins))
        label = " ".join(f"{group}={tree.get(f'{group}.name')}" for group in NAMED if _varies(trees, group))
        extra = " ".join(f"{key}={tree[key]}" for key in set_by_hand)
        labelled.append((" ".join(filter(None, (label, extra))) or str(tree.get("method.name")), runs))
    return [
        (label, sorted(runs, key=lambda run: run.seed)) for label, runs in sorted(labelled, key=_by_label)
    ]


def _by_label(item: tuple[str, list[RunResult]]) -> str:
    return item[0]


def _varies(trees: Sequence[Mapping[str, Any]], group: str) -> bool:
    return group == "method" or len({tree.get(f"{group}.name") for tree in trees}) > 1


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not f"{prefix}{key}".startswith("benchmark.build.split_seed"):
            yield f"{prefix}{key}", value
