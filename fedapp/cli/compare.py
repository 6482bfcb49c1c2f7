"""``fedapp compare``: finished runs side by side, seeds together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from fedapp.records.results import RunResult, read_finished
from fedapp.records.rows import NOT_METRICS
from fedapp.records.table import format_bytes, name_clients, print_notes, print_table

# What may differ between runs that are repetitions of one another.
NOT_COMPARED = {
    "seed",
    "run_dir",
    "runs_dir",
    "engine",
    "save_adapters",
    "client_configs",
    "join_timeout",
    "round_timeout",
    "seats",
}
COLUMNS = ("configuration", "seeds", "mean", "worst client", "base", "trained", "sent", "received", "time")
BEST = "best on validation"
NAMED = ("benchmark", "partitioner", "method", "adapter", "model", "hostile")


def compare(
    roots: Sequence[Path], stream: TextIO, warn: Callable[[str], None], metric: str | None = None
) -> None:
    """Print a table: a row per configuration, mean and standard deviation over its seeds.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        stream: Where to print.
        warn: Told in one line of each run that cannot be read; the others are compared.
        metric: What to compare by; None for each benchmark's first metric.

    Raises:
        ValueError: If a folder does not exist, there is no finished run with that metric, or it is none.
    """
    for root in roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist")
    if metric in NOT_METRICS:
        raise ValueError(f"--metric {metric} is no score between 0 and 1; e.g. accuracy, macro-f1")
    results = [result for root in roots for result in read_finished(root, warn, metric)]
    if not results:
        scored = f" with {metric} scores" if metric else ""
        raise ValueError(f"no finished run{scored} in {', '.join(map(str, roots))}")
    groups = _grouped(results)
    chosen = any(run.summary.best for run in results)
    rows = [[label, *_cells(runs), *[_best(runs)] * chosen] for label, runs in groups]
    print_table((*COLUMNS, BEST) if chosen else COLUMNS, rows, stream, left=("configuration",))
    print_notes(list(_notes(results, groups)), stream)


def _notes(results: Sequence[RunResult], groups: Sequence[tuple[str, Sequence[RunResult]]]) -> Iterator[str]:
    """What the table's numbers are, and what is missing from them."""
    metrics = ", ".join(dict.fromkeys(str(run.summary.metric) for run in results))
    yield (
        f"{metrics} of the final models on each client's own test split, in %: mean over seeds "
        "± standard deviation over seeds"
    )
    if any(run.summary.best for run in results):
        yield f"{BEST}: the same at the round (after @, by seed) with the highest mean on validation data"
    yield from _hostile_notes(groups)
    for run in results:
        if missing := _without_base(run):
            yield f"* without {name_clients(missing)} of {run.folder}, not scored there on the base"


def _cells(runs: Sequence[RunResult]) -> list[str]:
    base = [statistics.fmean(run.base.values()) for run in runs if run.base]
    return [
        " ".join(str(run.seed) for run in runs),
        _over_seeds([statistics.fmean(run.scores.values()) for run in runs]),
        _over_seeds([min(run.scores.values()) for run in runs]),
        _over_seeds(base) + "*" * any(map(_without_base, runs)) if base else "–",
        _trained(runs),
        format_bytes(statistics.fmean(run.summary.sent_bytes for run in runs)),
        format_bytes(statistics.fmean(run.summary.received_bytes for run in runs)),
        f"{statistics.fmean(run.seconds for run in runs):.0f} s",
    ]


def _over_seeds(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def _best(runs: Sequence[RunResult]) -> str:
    """Test scores at the rounds that are best on validation data, and these rounds by seed."""
    chosen = [run.summary.best for run in runs if run.summary.best]
    if len(chosen) < len(runs):
        return "–"
    means = [statistics.fmean(best.scores.values()) for best in chosen]
    return f"{_over_seeds(means)}\n@ {' '.join(str(best.server_round) for best in chosen)}"


def _trained(runs: Sequence[RunResult]) -> str:
    """Parameters that a client trains; from the fewest to the most where clients differ."""
    counts = sorted({count for run in runs for count in run.parameters})
    return "–".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]])) or "–"


def _hostile_notes(groups: Sequence[tuple[str, Sequence[RunResult]]]) -> Iterator[str]:
    """Who is in no score of the table because a run made it hostile, and in how many rows."""
    sets = [sorted({client for run in runs for client in run.summary.hostile}) for _, runs in groups]
    for clients in sorted({tuple(clients) for clients in sets if clients}):
        rows = sets.count(list(clients))
        yield f"without {name_clients(clients)} in {rows} of {len(sets)} configurations, made hostile there"


def _without_base(run: RunResult) -> list[int]:
    """Clients with a final score whose base was not scored, though others' was."""
    return sorted(set(run.scores) - set(run.base)) if run.base else []


def _grouped(results: Sequence[RunResult]) -> list[tuple[str, list[RunResult]]]:
    """Runs that differ in their seed alone, together; the label says what tells groups apart."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        kept = {key: value for key, value in _flat(result.config) if key.split(".")[0] not in NOT_COMPARED}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(result)
    trees = [json.loads(key) for key in groups]
    names = {f"{group}.about.name" for group in NAMED}
    # A setting that a named choice brings along is said by its name; one that differs between runs
    # of the same names was set by hand.
    labelled = []
    for tree, runs in zip(trees, groups.values(), strict=True):
        own = [tree.get(name) for name in sorted(names)]
        twins = [other for other in trees if [other.get(name) for name in sorted(names)] == own]
        differing = sorted(key for key in tree if any(other.get(key) != tree[key] for other in twins))
        label = " ".join(
            f"{group}={tree.get(f'{group}.about.name')}" for group in NAMED if _varies(trees, group)
        )
        extra = " ".join(f"{key}={tree[key]}" for key in differing)
        labelled.append((" ".join(filter(None, (label, extra))) or str(tree.get("method.about.name")), runs))
    return [
        (label, sorted(runs, key=lambda run: run.seed)) for label, runs in sorted(labelled, key=_by_label)
    ]


def _by_label(item: tuple[str, list[RunResult]]) -> str:
    return item[0]


def _varies(trees: Sequence[Mapping[str, Any]], group: str) -> bool:
    return group == "method" or len({tree.get(f"{group}.about.name") for tree in trees}) > 1


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not f"{prefix}{key}".startswith("benchmark.split_seed"):
            yield f"{prefix}{key}", value
