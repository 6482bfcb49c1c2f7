"""Seconds that `fedapp compare` and `fedapp report` take, process start included.

    python perf/compare_runs.py RUN [--runs 200] [--reports 30]

RUN is a finished run, which is copied under other seeds and settings.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SEEDS = 5


def copies(run: Path, root: Path, count: int) -> Path:
    """``count`` copies of a run: configurations with ``SEEDS`` seeds each."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    for number in range(count):
        folder = shutil.copytree(run, root / str(number))
        tree = {**config, "seed": number % SEEDS, "num_threads": number // SEEDS}
        (folder / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return root


def seconds(*words: str) -> dict[str, float]:
    """How long a command takes: wall and processor time, which other work on the machine moves less."""
    started, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "fedapp", *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": round(wall, 2), "cpu": round(used, 2)}


def main() -> None:
    """Copy the run, measure both commands, print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--reports", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        many, few = (copies(given.run, root / str(n), n) for n in (given.runs, given.reports))
        page = root / "report.html"
        found = {
            f"compare-{given.runs}-runs-seconds": seconds("compare", str(many)),
            f"report-{given.reports}-runs-seconds": seconds("report", str(few), "--out", str(page)),
            "page-bytes": page.stat().st_size if page.exists() else None,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
