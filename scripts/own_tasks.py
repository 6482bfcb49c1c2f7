"""What clients with a kind of task each can do of their own kind, and of the others'.

Run: ``python scripts/own_tasks.py RUNS``, a folder with finished runs in which every final model answered all
clients' test rows (``partitioner=distinct_task split.test=all save_predictions=true``). Prints a row for each
configuration: exact match in %, mean over clients, then mean ± standard deviation over seeds; and the
client that lost most of its own kind against ``method=local`` at the same seed, if there are such runs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fedapp.config.build import build
from fedapp.records.predictions import prompt_id
from fedapp.records.table import over_seeds

Scores = Mapping[int, tuple[float, float]]  # own and others', by client
SETTINGS = ("own_kind", "specialist_share")


def main(root: Path) -> int:
    """Read the runs below a folder and print the table; 1 if there is none."""
    found: dict[str, dict[int, Scores]] = defaultdict(dict)
    for summary in sorted(root.rglob("summary.json")):
        if not list(summary.parent.glob("adapters/*/predictions.jsonl")):
            print(f"{summary.parent} is left out: it was not run with save_predictions=true", file=sys.stderr)
            continue
        config = yaml.safe_load((summary.parent / "config.yaml").read_text(encoding="utf-8"))
        found[name_of(config)][int(config["seed"])] = scores_of(summary.parent, config)
    if not found:
        print(f"no finished run with predictions in {root}", file=sys.stderr)
        return 1
    print("| configuration | seeds | own kind | others' kinds | largest loss of an own kind against local |")
    print("|---|---|---|---|---|")
    for name, runs in sorted(found.items()):
        own, others = (over_seeds([mean_of(one, part) for one in runs.values()]) for part in (0, 1))
        seeds = " ".join(map(str, sorted(runs)))
        print(f"| {name} | {seeds} | {own} | {others} | {largest_loss(runs, found.get('local', {}))} |")
    return 0


def name_of(config: Mapping[str, Any]) -> str:
    """The method, with the settings of the consensus that this is about."""
    method = config["method"]
    settings = {**method["strategy"], **method["routine"]}
    said = [f"{key}={settings[key]}" for key in SETTINGS if key in settings]
    return " ".join([method["about"]["name"], *said])


def scores_of(folder: Path, config: Mapping[str, Any]) -> Scores:
    """Each client's share of right answers on rows of its own kind, and on all others."""
    benchmark = build(config["benchmark"], "benchmark")
    kinds = {prompt_id(benchmark.template(row).prompt): row["task"] for row in benchmark.load("test")}
    clients = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["clients"]
    found = {}
    for about in clients:
        client, (own,) = about["client-id"], about["tasks"]
        file = folder / "adapters" / f"client-{client}" / "predictions.jsonl"
        said = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        right: dict[bool, list[bool]] = {True: [], False: []}
        for row in said:
            if row["split"] == "test":
                right[kinds[row["prompt-id"]] == own].append(row["answer"] == row["target"])
        found[client] = (statistics.fmean(right[True]), statistics.fmean(right[False]))
    return found


def mean_of(scores: Scores, part: int) -> float:
    """Mean over clients of own (0) or others' (1)."""
    return statistics.fmean(pair[part] for pair in scores.values())


def largest_loss(runs: Mapping[int, Scores], local: Mapping[int, Scores]) -> str:
    """Points that the worst-hit client lost of its own kind, mean over the seeds that both have."""
    both = sorted(set(runs) & set(local))
    if not both:
        return "–"
    lost = {
        client: statistics.fmean(local[seed][client][0] - runs[seed][client][0] for seed in both)
        for client in runs[both[0]]
    }
    worst = max(lost, key=lambda client: lost[client])
    return f"{100 * lost[worst]:.1f} (client {worst})"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").strip())
    sys.exit(main(Path(sys.argv[1])))
