"""Runs that are repetitions of one another, together; which runs may stand in one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.config.run import OF_PLACE
from fedapp.records.results import RunResult, read_finished
from fedapp.records.rows import NOT_METRICS

# What may differ between runs that are repetitions of one another.
NOT_COMPARED = OF_PLACE | {
    "seed",
    "keep_adapters_every",
    "engine",
    "client_configs",
    "join_timeout",
    "round_timeout",
    "seats",
    "score.matrix",
}
NAMED = ("benchmark", "partitioner", "method", "adapter", "model", "hostile")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: What tells this configuration apart from the others in the table.
        runs: Sorted by seed.
    """

    label: str
    runs: tuple[RunResult, ...]


def read_runs(
    roots: Sequence[Path],
    warn: Callable[[str], None],
    metric: str | None = None,
    benchmark: str | None = None,
) -> list[RunResult]:
    """Read the finished runs of one benchmark below some folders.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        warn: Told in one line of each run that cannot be read, or has not ended; the others are read.
        metric: What to report; None for the benchmark's first metric.
        benchmark: Whose runs; None where there is only one.

    Raises:
        ValueError: If a folder does not exist or holds no run, if there is no finished run with that
            metric, if it is none, or if the runs are of several benchmarks.
    """
    if metric in NOT_METRICS:
        raise ValueError(f"--metric {metric} is no score between 0 and 1; e.g. accuracy, macro-f1")
    for root in roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist")
        if next(root.rglob("run.json"), None) is None:
            raise ValueError(f"{root} is no run folder, and there is none below it: run.json is missing")
    places: dict[Path, RunResult] = {}
    for result in (result for root in roots for result in read_finished(root, warn, metric)):
        places.setdefault(result.folder.resolve(), result)  # a run that is named twice is one run
    results = list(places.values())
    if not results:
        scored = f" with {metric} scores" if metric else ""
        raise ValueError(f"no finished run{scored} in {', '.join(map(str, roots))}")
    return _of_one_benchmark(results, benchmark)


def _of_one_benchmark(results: Sequence[RunResult], wanted: str | None) -> list[RunResult]:
    counts = Counter(benchmark_of(run) for run in results)
    listed = ", ".join(
        f"{name} ({number} run{'s' * (number > 1)})" for name, number in sorted(counts.items())
    )
    if wanted is not None and wanted not in counts:
        raise ValueError(f"--benchmark {wanted}: no run of it; there are runs of {listed}")
    if wanted is None and len(counts) > 1:
        raise ValueError(
            f"runs of different benchmarks do not compare: {listed}; choose one with --benchmark NAME"
        )
    return [run for run in results if wanted in (None, benchmark_of(run))]


def benchmark_of(run: RunResult) -> str:
    """The name of the benchmark that a run was on."""
    return str((run.config["benchmark"].get("about") or {}).get("name"))


def group_runs(results: Sequence[RunResult]) -> list[Group]:
    """Put runs together that differ in their seed alone; sorted by label."""
    groups: dict[str, list[RunResult]] = {}
    for result in results:
        kept = {key: value for key, value in _flat(result.config) if _counts(key)}
        groups.setdefault(json.dumps(kept, sort_keys=True), []).append(result)
    trees = [json.loads(key) for key in groups]
    names = [f"{group}.about.name" for group in NAMED]
    owns = [tuple(str(tree.get(name)) for name in names) for tree in trees]
    varying = [group for group in NAMED if group == "method" or _varies(trees, group)]
    # A setting that a named choice brings along is said by its name; one that differs between runs
    # of the same names was set by hand.
    twins: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for own, tree in zip(owns, trees, strict=True):
        twins.setdefault(own, []).append(tree)
    labelled = []
    for own, tree, runs in zip(owns, trees, groups.values(), strict=True):
        others = twins[own]
        keys = {key for other in others for key in other} if len(others) > 1 else set()
        differing = sorted(key for key in keys if any(other.get(key) != tree.get(key) for other in others))
        words = [f"{group}={tree.get(f'{group}.about.name')}" for group in varying]
        words += [f"{key}={tree[key]}" for key in differing if key in tree]
        labelled.append(Group(" ".join(words), tuple(sorted(runs, key=_by_seed))))
    return sorted(labelled, key=_by_label)


def _by_seed(run: RunResult) -> tuple[int, str]:
    return run.seed, str(run.folder)


def _by_label(group: Group) -> str:
    return group.label


def _counts(key: str) -> bool:
    return key.split(".")[0] not in NOT_COMPARED and key not in NOT_COMPARED


def _varies(trees: Sequence[Mapping[str, Any]], group: str) -> bool:
    return len({tree.get(f"{group}.about.name") for tree in trees}) > 1


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not f"{prefix}{key}".startswith("benchmark.split_seed"):
            yield f"{prefix}{key}", value
