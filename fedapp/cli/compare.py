"""``fedapp compare``: finished runs side by side, seeds together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from fedapp.records.results import RunResult, read_finished
from fedapp.records.rows import NOT_METRICS
from fedapp.records.table import (
    OWN,
    UNKNOWN,
    format_bytes,
    name_clients,
    over_all_seeds,
    over_seeds,
    print_notes,
    print_table,
    show_pooled,
)

# What may differ between runs that are repetitions of one another.
NOT_COMPARED = {
    "seed",
    "run_dir",
    "runs_dir",
    "resume",
    "checkpoints",
    "keep_adapters_every",
    "engine",
    "save_adapters",
    "save_predictions",
    "client_configs",
    "join_timeout",
    "round_timeout",
    "seats",
}
SCORED = ("configuration", "seeds", "pooled", "mean", "worst client")
COST = ("base", "trained", "sent", "received", "CPU", "time")
BEST, F1, ANSWERS = "best on validation", "pooled macro-f1", "answers by"
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
    further: dict[str, Callable[[Sequence[RunResult]], str]] = {}
    if any(run.pooled.macro_f1 is not None and run.summary.metric != "macro-f1" for run in results):
        further[F1] = _macro_f1
    if _mixed_answering(results):
        further[ANSWERS] = _answering
    columns = (*SCORED, *further, *COST, *[BEST] * chosen)
    rows = [
        [
            label,
            *_scores(runs),
            *(show(runs) for show in further.values()),
            *_cost(runs),
            *[_best(runs)] * chosen,
        ]
        for label, runs in groups
    ]
    print_table(columns, rows, stream, left=("configuration", ANSWERS))
    print_notes(list(_notes(results, groups)), stream)


def _notes(results: Sequence[RunResult], groups: Sequence[tuple[str, Sequence[RunResult]]]) -> Iterator[str]:
    """What the table's numbers are, and what is missing from them."""
    metrics = ", ".join(dict.fromkeys(str(run.summary.metric) for run in results))
    yield (
        f"{metrics} of the final models, in %, as mean over seeds ± standard deviation over seeds; "
        "mean, worst client: of each client's score on its own test rows"
    )
    yield from _pooled_notes(results)
    for benchmark, rules in _mixed_answering(results).items():
        yield (
            f"NOT COMPARABLE on {benchmark}: models answer by different rules ({'; '.join(rules)}); "
            f"compare rows with the same '{ANSWERS}' alone"
        )
    if any(run.summary.best for run in results):
        yield f"{BEST}: the same at the round (after @, by seed) with the highest mean on validation data"
    yield from _hostile_notes(groups)
    for run in results:
        if missing := _without_base(run):
            yield f"* without {name_clients(missing)} of {run.folder}, not scored there on the base"


def _pooled_notes(results: Sequence[RunResult]) -> Iterator[str]:
    """What a pooled score is, and of whose models."""
    if any(run.pooled.score is not None for run in results):
        yield (
            "pooled: over the test rows of all clients together; in brackets 95 % of a bootstrap over these "
            "rows within a seed, mean over seeds"
        )
    if any(run.pooled.one_model is False for run in results):
        yield f"{OWN} each client's rows by its own model: the models differ between clients"
    if any(run.pooled.score is not None and run.pooled.one_model is None for run in results):
        yield f"{UNKNOWN} whether clients have one model is not known"


def _mixed_answering(results: Sequence[RunResult]) -> dict[str, list[str]]:
    """Benchmarks on which models answer by different rules, and these."""
    found: dict[str, set[str]] = {}
    for run in results:
        name = str((run.config["benchmark"].get("about") or {}).get("name"))
        found.setdefault(name, set()).add(run.answering)
    return {name: sorted(rules) for name, rules in found.items() if len(rules) > 1}


def _answering(runs: Sequence[RunResult]) -> str:
    return " / ".join(sorted({run.answering for run in runs}))


def _macro_f1(runs: Sequence[RunResult]) -> str:
    return over_all_seeds([run.pooled.macro_f1 for run in runs])


def _scores(runs: Sequence[RunResult]) -> list[str]:
    return [
        " ".join(str(run.seed) for run in runs),
        show_pooled([run.pooled for run in runs]),
        over_seeds([statistics.fmean(run.scores.values()) for run in runs]),
        over_seeds([min(run.scores.values()) for run in runs]),
    ]


def _cost(runs: Sequence[RunResult]) -> list[str]:
    times = [run.cpu_seconds for run in runs if run.cpu_seconds is not None]
    base = [statistics.fmean(run.base.values()) for run in runs if run.base]
    return [
        over_seeds(base) + "*" * any(map(_without_base, runs)) if base else "–",
        _trained(runs),
        format_bytes(statistics.fmean(run.summary.sent_bytes for run in runs)),
        format_bytes(statistics.fmean(run.summary.received_bytes for run in runs)),
        f"{statistics.fmean(times):.0f} s" if len(times) == len(runs) else "–",
        f"{statistics.fmean(run.seconds for run in runs):.0f} s",
    ]


def _best(runs: Sequence[RunResult]) -> str:
    """Test scores at the rounds that are best on validation data, and these rounds by seed."""
    chosen = [run.summary.best for run in runs if run.summary.best]
    if len(chosen) < len(runs):
        return "–"
    means = [statistics.fmean(best.scores.values()) for best in chosen]
    return f"{over_seeds(means)}\n@ {' '.join(str(best.server_round) for best in chosen)}"


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
