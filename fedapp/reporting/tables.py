"""Markdown tables of results, made from result files alone, and put into the pages that show them."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedapp.records.pooling import mean_interval, mean_of_intervals, pool
from fedapp.records.table import OWN, UNKNOWN, format_bytes, over_seeds, show_interval, show_pooled
from fedapp.reporting.result_file import ResultRecord, read_records
from fedapp.reporting.tuning import STEP_SIZE, Choice, read_choices

COLUMNS = (
    "method",
    "adapter",
    "pooled",
    "mean over clients",
    "worst client",
    "base",
    "sent",
    "received",
    "CPU",
    "step size",
)
UNTUNED = "*"
BLOCK = re.compile(r"^(<!-- table: ([^\n]*?) -->\n)(.*?)^(<!-- end -->)", re.DOTALL | re.MULTILINE)
"""A table's place: marks at the start of a line; one that is set in is an example."""
_OPENING = re.compile(r"^<!-- table:", re.MULTILINE)
Group = list[ResultRecord]


def render(
    name: str, records: Sequence[ResultRecord], tuned: Mapping[str, Sequence[Choice]], metric: str
) -> str:
    """A table with what it shows above it, and below it the command that repeats each row.

    Args:
        name: Of the result file.
        records: What to show; a row for each configuration, its seeds together.
        tuned: Step sizes that were chosen on validation rows, by name of their file.
        metric: What to show.

    Raises:
        ValueError: If a result does not have the metric.
    """
    for record in records:
        if not record.rows or any(metric not in row.metrics for row in record.rows):
            raise ValueError(f"results/{name}.jsonl: {' '.join(record.overrides)} has no {metric}")
    groups = sorted(_grouped(records), key=lambda group: -_order(group, metric))
    labels = _labels(groups)
    lines = [*_heading(groups, metric), "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for group, label in zip(groups, labels, strict=True):
        lines.append(f"| {' | '.join([label, *_cells(group, metric, tuned)])} |")
    lines += [
        "",
        *_notes(name, groups, metric, tuned),
        "",
        "<details><summary>Commands, a row each</summary>",
        "",
    ]
    lines += [f"    {_command(group)}" for group in groups]
    return "\n".join([*lines, "", "</details>", ""])


def _grouped(records: Sequence[ResultRecord]) -> list[Group]:
    groups: dict[tuple[str, ...], Group] = {}
    for record in records:
        groups.setdefault(record.overrides, []).append(record)
    return [sorted(group, key=lambda record: record.seed) for group in groups.values()]


def _order(group: Group, metric: str) -> float:
    pooled = [pool(record.rows, metric).score for record in group]
    known = [score for score in pooled if score is not None]
    return statistics.fmean(known if len(known) == len(group) else _means(group, metric))


def _labels(groups: Sequence[Group]) -> list[str]:
    """What tells rows apart: the method, and words that not all of them have."""
    common = set.intersection(*(set(group[0].overrides) for group in groups))
    unlike = (f"{STEP_SIZE}=", "method=", "adapter=")
    labels = []
    for group in groups:
        extra = [word for word in group[0].overrides if word not in common and not word.startswith(unlike)]
        labels.append(" ".join([group[0].names["method"], *(f"`{word}`" for word in extra)]))
    return labels


def _means(group: Group, metric: str) -> list[float]:
    return [statistics.fmean(row.metrics[metric] for row in record.rows) for record in group]


def _cells(group: Group, metric: str, tuned: Mapping[str, Sequence[Choice]]) -> list[str]:
    pooled = [pool(record.rows, metric) for record in group]
    between = mean_of_intervals([mean_interval(record.rows, metric) for record in group])
    worst = [min(row.metrics[metric] for row in record.rows) for record in group]
    base = [statistics.fmean(record.base.values()) for record in group if record.base]
    times = [record.cpu_seconds for record in group if record.cpu_seconds is not None]
    return [
        group[0].names["adapter"],
        show_pooled(pooled),
        over_seeds(_means(group, metric)) + show_interval(between),
        over_seeds(worst),
        over_seeds(base) if len(base) == len(group) and metric == group[0].metric else "–",
        format_bytes(statistics.fmean(record.sent_bytes for record in group)),
        format_bytes(statistics.fmean(record.received_bytes for record in group)),
        f"{statistics.fmean(times):.0f} s" if len(times) == len(group) else "–",
        _step_size(group[0], tuned),
    ]


def _step_size(record: ResultRecord, tuned: Mapping[str, Sequence[Choice]]) -> str:
    """The step size and the file in which it was chosen; a mark where it was not, a dash without training."""
    size = record.settings.get("step-size")
    if size is None or not any(record.parameters):
        return "–"
    files = [
        name
        for name, choices in tuned.items()
        if any(one.is_of(record.names, record.overrides, float(size)) for one in choices)
    ]
    return f"{float(size):g}" + (f" ({files[0]})" if files else UNTUNED)


def _heading(groups: Sequence[Group], metric: str) -> Iterator[str]:
    """What the table shows, of which rows, on which model."""
    records = [record for group in groups for record in group]
    sizes = sorted({sum(row.num_examples or 0 for row in record.rows) for record in records})
    seeds = sorted({record.seed for record in records})

    def all_of(values: Sequence[object]) -> str:
        return ", ".join(dict.fromkeys(map(str, values)))

    yield (
        f"*{metric} of the final models, in %, on {all_of(sizes)} test rows; seeds {all_of(seeds)}; "
        f"benchmark {all_of([r.names['benchmark'] for r in records])}, "
        f"model {all_of([r.names['model'] for r in records])} ({all_of([r.dtype for r in records])}), "
        f"{all_of([r.settings['num-clients'] for r in records])} clients, "
        f"{all_of([r.settings['num-rounds'] for r in records])} rounds, "
        f"answers by {all_of([r.answering for r in records])}.*"
    )


def _notes(
    name: str, groups: Sequence[Group], metric: str, tuned: Mapping[str, Sequence[Choice]]
) -> Iterator[str]:
    """How to read the columns, and where the numbers come from."""
    records = [record for group in groups for record in group]
    models = {pool(record.rows, metric).one_model for record in records}
    yield (
        "Pooled: over the test rows of all clients together; mean and worst: of each client's score on its "
        "own rows. ± is the standard deviation over seeds; brackets hold 95 % of a bootstrap over test rows "
        "within a seed, mean over seeds. Bytes are payload, CPU is processor time, of all clients and rounds."
    )
    if False in models:
        yield f"{OWN} each client's rows by its own model: the models differ between clients."
    if None in models:
        yield f"{UNKNOWN} whether clients have one model is not known."
    ways = sorted({(record.names["benchmark"], record.answering) for record in records})
    if len({benchmark for benchmark, _ in ways}) < len(ways):
        yield f"**Not comparable**: models answer by different rules ({'; '.join(way for _, way in ways)})."
    steps = [_step_size(group[0], tuned) for group in groups]
    cited = [file for file in tuned if any(f"({file})" in step for step in steps)]
    if cited:
        files = ", ".join(f"`results/tuning/{file}.json`" for file in cited)
        yield f"Step sizes chosen on validation rows, from the same grid for all: {files}."
    if any(step.endswith(UNTUNED) for step in steps):
        yield f"{UNTUNED} a step size that was not tuned."
    commits = ", ".join(dict.fromkeys((record.commit or "unknown")[:10] for record in records))
    processors = ", ".join(dict.fromkeys(record.processor for record in records))
    yield f"From `results/{name}.jsonl`, commit {commits}, {processors}; others may differ by a point."


def _command(group: Group) -> str:
    """The command that repeats a row."""
    seeds = ",".join(str(record.seed) for record in group)
    several = "--multirun " if len(group) > 1 else ""
    return f"fedapp run {several}{shlex.join(group[0].overrides)} seed={seeds}"


def table_of(words: str, results: Path) -> str:
    """The table that a page's mark asks for.

    Args:
        words: ``NAME`` of the result file, then ``metric=NAME``, and ``GROUP=CHOICE`` to choose rows.
        results: Folder of the result files.

    Raises:
        ValueError: If there is no such file, no such row, or a word that means nothing.
    """
    name, *choices = words.split()
    records = read_records(results / f"{name}.jsonl")
    metric = None
    for word in choices:
        key, equals, value = word.partition("=")
        if key == "metric" and equals:
            metric = value
        elif equals and records and key in records[0].names:
            records = [record for record in records if record.names[key] == value]
        else:
            raise ValueError(
                f"table: {words}: {word} must be metric=NAME or GROUP=CHOICE, such as method=fedit"
            )
    if not records:
        raise ValueError(f"table: {words}: results/{name}.jsonl holds no such result")
    files = sorted((results / "tuning").glob("*.json"))
    tuned = {path.stem: read_choices(path) for path in files}
    return render(name, records, tuned, metric or records[0].metric)


def updated(text: str, make: Callable[[str], str]) -> str:
    """A page with every table between ``<!-- table: … -->`` and ``<!-- end -->`` made again.

    Raises:
        ValueError: If a mark is not closed.
    """
    found = BLOCK.findall(text)
    if len(found) != len(_OPENING.findall(text)) or any(_OPENING.search(body) for _, _, body, _ in found):
        raise ValueError("a <!-- table: … --> has no <!-- end --> of its own")
    return BLOCK.sub(lambda block: f"{block[1]}{make(block[2])}{block[4]}", text)
