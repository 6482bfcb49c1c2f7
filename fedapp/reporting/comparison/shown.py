"""A comparison as people read it: columns, cells, and the notes below."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from fedapp.records.results import RunResult
from fedapp.records.table import (
    OWN,
    UNKNOWN,
    format_bytes,
    format_score,
    name_clients,
    over_all_seeds,
    over_seeds,
    show_interval,
    show_pooled,
)
from fedapp.reporting.comparison.groups import Group, benchmark_of
from fedapp.reporting.comparison.paired import Difference
from fedapp.reporting.comparison.rows import Comparison

CONFIGURATION, BEST, F1, ANSWERS = "configuration", "best on validation", "pooled macro-f1", "answers by"
DIFFERENCE = "difference"
OF_TEXT = (CONFIGURATION, ANSWERS)
"""Columns that are read from the left, and may be folded."""

Cell = Callable[[Group], str]


def columns_of(comparison: Comparison) -> dict[str, Cell]:
    """The columns of a table, and what each shows of a configuration; the most read ones first."""
    runs, asked = comparison.results, comparison.question
    columns: dict[str, Cell] = {
        CONFIGURATION: lambda group: group.label,
        "pooled": lambda group: show_pooled([run.pooled for run in group.runs]),
        "mean": lambda group: over_seeds([statistics.fmean(run.scores.values()) for run in group.runs]),
        "worst client": lambda group: over_seeds([min(run.scores.values()) for run in group.runs]),
    }
    if any(run.pooled.macro_f1 is not None and run.summary.metric != "macro-f1" for run in runs):
        columns[F1] = lambda group: over_all_seeds([run.pooled.macro_f1 for run in group.runs])
    if mixed_answering(runs):
        columns[ANSWERS] = lambda group: " / ".join(sorted({run.answering for run in group.runs}))
    if comparison.differences:
        columns[DIFFERENCE] = lambda group: _difference(
            comparison.differences.get(group.label), group.label == comparison.against
        )
    if asked.target is not None:
        columns[f"bytes to {format_score(asked.target)}"] = lambda group: _reached(
            comparison.bytes_to_target(group)
        )
    if asked.max_bytes is not None:
        columns[f"within {format_bytes(asked.max_bytes)}"] = lambda group: over_all_seeds(
            comparison.scores_within(group)
        )
    columns |= _costs()
    if any(run.summary.best for run in runs):
        columns[BEST] = lambda group: _best(group.runs)
    return columns


def _costs() -> dict[str, Cell]:
    return {
        "seeds": lambda group: " ".join(str(run.seed) for run in group.runs),
        "base": lambda group: _base(group.runs),
        "trained": lambda group: _trained(group.runs),
        "sent": lambda group: format_bytes(statistics.fmean(run.summary.sent_bytes for run in group.runs)),
        "received": lambda group: format_bytes(
            statistics.fmean(run.summary.received_bytes for run in group.runs)
        ),
        "CPU": lambda group: _seconds([run.cpu_seconds for run in group.runs]),
        "time": lambda group: _seconds([run.seconds for run in group.runs]),
    }


def cells_of(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings, and a list of cells for each configuration."""
    columns = columns_of(comparison)
    return list(columns), [[show(group) for show in columns.values()] for group in comparison.groups]


def notes_of(comparison: Comparison) -> Iterator[str]:
    """What the table's numbers are, and what is missing from them; a line each."""
    results, asked = comparison.results, comparison.question
    yield (
        f"{comparison.metric} of the final models, in %, as mean over seeds ± standard deviation over seeds; "
        "mean, worst client: of each client's score on its own test rows"
    )
    yield from _repeated_notes(comparison.groups)
    yield from _pooled_notes(results)
    for benchmark, rules in mixed_answering(results).items():
        yield (
            f"NOT COMPARABLE on {benchmark}: models answer by different rules ({'; '.join(rules)}); "
            f"compare rows with the same '{ANSWERS}' alone"
        )
    yield from _difference_notes(comparison)
    if asked.target is not None or asked.max_bytes is not None:
        yield (
            "bytes: payload sent and received by all clients, until the mean over clients, "
            f"{comparison.curve} on test rows, is as high for the first time; within: the mean at the last "
            "round that ends within these bytes"
        )
    if any(run.summary.best for run in results):
        yield f"{BEST}: the same at the round (after @, by seed) with the highest mean on validation data"
    yield from _hostile_notes(comparison.groups)
    for run in results:
        if missing := _without_base(run):
            yield f"* without {name_clients(missing)} of {run.folder}, not scored there on the base"


def _repeated_notes(groups: Sequence[Group]) -> Iterator[str]:
    """Which seeds are in a row more than once: a run that was started again adds nothing new."""
    for group in groups:
        counts = Counter(run.seed for run in group.runs)
        if again := [str(seed) for seed, count in counts.items() if count > 1]:
            yield (
                f"NOT INDEPENDENT: '{group.label}' has more than one run of seed {', '.join(again)}; "
                "each counts, so ± comes out too small: keep one of them"
            )


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


def _difference_notes(comparison: Comparison) -> Iterator[str]:
    if comparison.differences:
        yield (
            f"{DIFFERENCE}: mean over pairs of seed and client of the score minus that of "
            f"'{comparison.against}', in points; in brackets 95 % of a bootstrap over pairs; p of a "
            "sign-flip test, after Holm's correction for all rows. Clients of one seed share what they "
            "learnt: with few seeds p is too small rather than too large"
        )
    if comparison.against is not None and len(comparison.differences) < len(comparison.groups) - 1:
        yield (
            "no difference is shown where a configuration shares no seed with "
            f"'{comparison.against}', or its clients have other rows there"
        )


def mixed_answering(results: Sequence[RunResult]) -> dict[str, list[str]]:
    """Benchmarks on which models answer by different rules, and these."""
    found: dict[str, set[str]] = {}
    for run in results:
        found.setdefault(benchmark_of(run), set()).add(run.answering)
    return {name: sorted(rules) for name, rules in found.items() if len(rules) > 1}


def _difference(one: Difference | None, is_reference: bool) -> str:
    if is_reference:
        return "reference"
    if one is None:
        return "–"
    p = "" if one.corrected is None else f" p {one.corrected:.3f}" if one.corrected >= 0.001 else " p <0.001"
    return f"{100 * one.mean:+.1f}{show_interval(one.interval)}{p}"


def _reached(sizes: Sequence[int | None]) -> str:
    """Mean bytes; how many of the seeds came so far where not all did."""
    found = [size for size in sizes if size is not None]
    if not found:
        return "not reached"
    shown = format_bytes(statistics.fmean(found))
    return shown if len(found) == len(sizes) else f"{shown} ({len(found)} of {len(sizes)} seeds)"


def _base(runs: Sequence[RunResult]) -> str:
    base = [statistics.fmean(run.base.values()) for run in runs if run.base]
    return over_seeds(base) + "*" * any(map(_without_base, runs)) if base else "–"


def _seconds(times: Sequence[float | None]) -> str:
    known = [one for one in times if one is not None]
    return f"{statistics.fmean(known):.0f} s" if len(known) == len(times) else "–"


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


def _hostile_notes(groups: Sequence[Group]) -> Iterator[str]:
    """Who is in no score of the table because a run made it hostile, and in how many rows."""
    sets = [sorted({client for run in group.runs for client in run.summary.hostile}) for group in groups]
    for clients in sorted({tuple(clients) for clients in sets if clients}):
        rows = sets.count(list(clients))
        yield f"without {name_clients(clients)} in {rows} of {len(sets)} configurations, made hostile there"


def _without_base(run: RunResult) -> list[int]:
    """Clients with a final score whose base was not scored, though others' was."""
    return sorted(set(run.scores) - set(run.base)) if run.base else []
