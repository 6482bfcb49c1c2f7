"""``fedapp compare``: finished runs side by side, seeds together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from fedapp.errors import one_line
from fedapp.summary import hostile_clients, main_metric, name_clients, size

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
}
COLUMNS = ("configuration", "seeds", "mean", "worst client", "base", "trained", "sent", "received", "time")
NAMED = ("benchmark", "partitioner", "method", "adapter", "model", "hostile")


@dataclass(frozen=True)
class RunResult:
    """What one finished run comes to.

    Attributes:
        folder: The run folder.
        config: Its composed config.
        seed: Its seed.
        scores: Final main metric on the test split, by honest client.
        base: The base model's, by client; empty where it was not scored.
        parameters: Numbers that each client trains; empty where the run does not say.
        sent, received: Payload bytes of all clients in all rounds.
        seconds: Wall time.
        hostile: Clients that the run made hostile.
    """

    folder: Path
    config: Mapping[str, Any]
    seed: int
    scores: Mapping[int, float]
    base: Mapping[int, float]
    parameters: Sequence[int]
    sent: int
    received: int
    seconds: float
    hostile: Sequence[int] = ()


def compare(roots: Sequence[Path], stream: TextIO, warn: Callable[[str], None]) -> None:
    """Print a table: a row per configuration, mean and standard deviation over its seeds.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        stream: Where to print.
        warn: Told in one line of each run that cannot be read; the others are compared.

    Raises:
        ValueError: If a folder does not exist or there is no finished run.
    """
    for root in roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist")
    results = [result for root in roots for result in _finished(root, warn)]
    if not results:
        raise ValueError(f"no finished run in {', '.join(map(str, roots))}")
    groups = _grouped(results)
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, width=None if stream.isatty() else 160)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "configuration" else "right", overflow="fold")
    for label, runs in groups:
        table.add_row(label, *_cells(runs))
    console.print(table)
    note = (
        "final models on each client's own test split, in %: mean over seeds ± standard deviation over seeds"
    )
    console.print(note, highlight=False)
    for note in _hostile_notes(groups):
        console.print(note, highlight=False)
    for run in results:
        if missing := _without_base(run):
            console.print(
                f"* without {name_clients(missing)} of {run.folder}, not scored there on the base",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )


def _cells(runs: Sequence[RunResult]) -> list[str]:
    def over_seeds(values: Sequence[float]) -> str:
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{100 * statistics.fmean(values):.1f}{spread}"

    base = [statistics.fmean(run.base.values()) for run in runs if run.base]
    return [
        " ".join(str(run.seed) for run in runs),
        over_seeds([statistics.fmean(run.scores.values()) for run in runs]),
        over_seeds([min(run.scores.values()) for run in runs]),
        over_seeds(base) + "*" * any(map(_without_base, runs)) if base else "–",
        _trained(runs),
        size(statistics.fmean(run.sent for run in runs)),
        size(statistics.fmean(run.received for run in runs)),
        f"{statistics.fmean(run.seconds for run in runs):.0f} s",
    ]


def _trained(runs: Sequence[RunResult]) -> str:
    """Parameters that a client trains; from the fewest to the most where clients differ."""
    counts = sorted({count for run in runs for count in run.parameters})
    return "–".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]])) or "–"


def _hostile_notes(groups: Sequence[tuple[str, Sequence[RunResult]]]) -> Iterator[str]:
    """Who is in no score of the table because a run made it hostile, and in how many rows."""
    sets = [sorted({client for run in runs for client in run.hostile}) for _, runs in groups]
    for clients in sorted({tuple(clients) for clients in sets if clients}):
        rows = sets.count(list(clients))
        yield f"without {name_clients(clients)} in {rows} of {len(sets)} configurations, made hostile there"


def _without_base(run: RunResult) -> list[int]:
    """Clients with a final score whose base was not scored, though others' was."""
    return sorted(set(run.scores) - set(run.base)) if run.base else []


def _finished(root: Path, warn: Callable[[str], None]) -> Iterator[RunResult]:
    for path in sorted(root.rglob("run.json")):
        try:
            result = _read(path)
        except ValueError as error:
            warn(f"{path.parent} is left out: {one_line(error)}")
        except (LookupError, TypeError, AttributeError):
            warn(f"{path.parent} is left out: its files are not those of a finished run")
        else:
            if result is not None:
                yield result


def _read(path: Path) -> RunResult | None:
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
    tested = [row for row in _lines(folder / "metrics.jsonl") if row["split"] == "test"]
    rows = [row for row in tested if row["client-id"] not in hostile]
    metric = main_metric(rows)
    if metric is None:
        raise ValueError("metrics.jsonl holds no scores on the test split")
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
        scores,
        base,
        [int(count) for count in trained.values()],
        sent,
        received,
        float(about["seconds"]),
        hostile,
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
