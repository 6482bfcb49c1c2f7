"""What a comparison comes to, in numbers: a row for each configuration."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.core.checks import require_number
from fedapp.records.pooling import mean_of_intervals
from fedapp.records.results import RunResult
from fedapp.reporting.comparison.curves import bytes_to_reach, curve, kind_of, score_within
from fedapp.reporting.comparison.groups import NAMED, Group, benchmark_of, group_runs, read_runs
from fedapp.reporting.comparison.paired import Difference, differences, reference

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What is asked of a comparison.

    Attributes:
        metric: What to compare by; None for the benchmark's first metric.
        benchmark: Whose runs; None where there is only one.
        against: The configuration that others are compared with: its label or words of it; None for the
            one with the highest mean.
        target: A score, a fraction: how many bytes it takes to reach it.
        max_bytes: Payload bytes: which score is reached within them.

    Raises:
        ValueError: If the target is no fraction or the bytes are not above 0.
    """

    metric: str | None = None
    benchmark: str | None = None
    against: str | None = None
    target: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.target is not None:
            require_number("target", self.target, "[0, 1]")
        if self.max_bytes is not None:
            require_number("max_bytes", self.max_bytes, "(0, inf)")


@dataclass(frozen=True)
class Comparison:
    """Finished runs side by side.

    Attributes:
        metric: What the scores are.
        question: What was asked.
        groups: Runs by configuration, seeds together.
        against: The label of the reference; None where there is nothing to compare with it.
        differences: From the reference, by label.
        curve: Which models the bytes to a target and the score within bytes are of.
    """

    metric: str
    question: Question
    groups: tuple[Group, ...]
    against: str | None
    differences: Mapping[str, Difference]
    curve: str

    @property
    def results(self) -> list[RunResult]:
        """All runs."""
        return [run for group in self.groups for run in group.runs]

    def rows(self) -> list[Row]:
        """A dictionary for each configuration, with the same keys in all.

        Scores and differences are fractions, spreads their standard deviations over seeds (None of one
        seed), sizes bytes of payload of all clients and rounds, times seconds; all means over seeds. None is
        what is not known.
        """
        return [self._row(group) for group in self.groups]

    def bytes_to_target(self, group: Group) -> list[int | None]:
        """Payload bytes until the target is reached, a run each; None where it is not."""
        target = self.question.target
        if target is None:
            return []
        return [bytes_to_reach(curve(run, self.curve), target) for run in group.runs]

    def scores_within(self, group: Group) -> list[float | None]:
        """Mean score within the bytes asked for, a run each; None where no round ends within them."""
        most = self.question.max_bytes
        return [] if most is None else [score_within(curve(run, self.curve), most) for run in group.runs]

    def _row(self, group: Group) -> Row:
        runs = group.runs
        config = runs[0].config
        return {
            "configuration": group.label,
            "benchmark": benchmark_of(runs[0]),
            **{name: _name(config, name) for name in NAMED if name != "benchmark"},
            "metric": self.metric,
            "runs": len(runs),
            "seeds": [run.seed for run in runs],
            **_scores(runs),
            "answers-by": sorted({run.answering for run in runs}),
            **_costs(runs),
            **self._budgets(group),
            **_difference(self.differences.get(group.label), self.against),
            "folders": [str(run.folder) for run in runs],
        }

    def _budgets(self, group: Group) -> Row:
        reached, within = self.bytes_to_target(group), self.scores_within(group)
        found = [size for size in reached if size is not None]
        found_scores = [score for score in within if score is not None]
        return {
            "bytes-to-target": statistics.fmean(found) if found and len(found) == len(reached) else None,
            "runs-at-target": len(found) if reached else None,
            "score-within-bytes": _mean(found_scores) if len(found_scores) == len(within) else None,
        }


def compare_runs(
    roots: Sequence[Path], warn: Callable[[str], None], question: Question | None = None
) -> Comparison:
    """Put the finished runs below some folders side by side.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        warn: Told in one line of each run that cannot be read, or has not ended; the others are compared.
        question: What is asked; None for the defaults.

    Raises:
        ValueError: If a folder holds no run, if there is no finished run with the metric, if the runs
            are of several benchmarks, or there is no such reference.
    """
    asked = question or Question()
    results = read_runs(roots, warn, asked.metric, asked.benchmark)
    groups = group_runs(results)
    against = reference(groups, asked.against) if len(groups) > 1 or asked.against else None
    return Comparison(
        str(results[0].summary.metric),
        asked,
        tuple(groups),
        None if against is None else against.label,
        {} if against is None else differences(groups, against),
        kind_of(results),
    )


def _name(config: Mapping[str, Any], group: str) -> str | None:
    return ((config.get(group) or {}).get("about") or {}).get("name")


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _whole(values: Sequence[float | None]) -> float | None:
    """The mean; None where a seed has no value."""
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None


def _scores(runs: Sequence[RunResult]) -> Row:
    means = [statistics.fmean(run.scores.values()) for run in runs]
    worst = [min(run.scores.values()) for run in runs]
    low, high = mean_of_intervals([run.pooled.interval for run in runs]) or (None, None)
    models = {run.pooled.one_model for run in runs}
    return {
        "pooled": _whole([run.pooled.score for run in runs]),
        "pooled-low": low,
        "pooled-high": high,
        "pooled-macro-f1": _whole([run.pooled.macro_f1 for run in runs]),
        "one-model": None if None in models else models == {True},
        "mean": _mean(means),
        "mean-std": _spread(means),
        "worst-client": _mean(worst),
        "worst-client-std": _spread(worst),
        "base": _mean([statistics.fmean(run.base.values()) for run in runs if run.base]),
    }


def _costs(runs: Sequence[RunResult]) -> Row:
    counts = sorted({count for run in runs for count in run.parameters})
    return {
        "parameters-least": counts[0] if counts else None,
        "parameters-most": counts[-1] if counts else None,
        "sent-bytes": statistics.fmean(run.summary.sent_bytes for run in runs),
        "received-bytes": statistics.fmean(run.summary.received_bytes for run in runs),
        "cpu-seconds": _whole([run.cpu_seconds for run in runs]),
        "seconds": statistics.fmean(run.seconds for run in runs),
    }


def _difference(one: Difference | None, against: str | None) -> Row:
    low, high = (one.interval if one else None) or (None, None)
    return {
        "against": against,
        "difference": one.mean if one else None,
        "difference-low": low,
        "difference-high": high,
        "pairs": one.pairs if one else None,
        "p": one.p if one else None,
        "p-corrected": one.corrected if one else None,
    }
