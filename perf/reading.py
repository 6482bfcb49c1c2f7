"""Reading rows from files as ``benchmark=own`` does: seconds of CPU time for 100,000 rows of each format.

python perf/reading.py [rows]
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from pathlib import Path

from datasets import Dataset, disable_progress_bars

from fedapp.benchmarks.own import Own


def write(folder: Path, rows: list[dict[str, object]]) -> None:
    """The same rows in every format, a folder each."""
    for name in ("jsonl", "json", "csv", "parquet", "saved"):
        (folder / name / "task").mkdir(parents=True)
    (folder / "jsonl/task/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "json/task/train.json").write_text(json.dumps(rows))
    with (folder / "csv/task/train.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = Dataset.from_list(rows)
    table.to_parquet(str(folder / "parquet/task/train.parquet"))
    table.save_to_disk(folder / "saved/task/train")


def main() -> None:
    """Print a line per format: the best of three."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    text = "What is asked about thing {} in a sentence of a usual length, with a few words more? " * 2
    rows: list[dict[str, object]] = [
        {"prompt": text.format(i, i), "target": i % 97, "id": i, "source": "made"} for i in range(count)
    ]
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as made:
        write(Path(made), rows)
        for name in ("jsonl", "json", "csv", "parquet", "saved"):
            seconds = []
            for _ in range(3):
                started = time.process_time()
                found = Own(str(Path(made) / name)).load("train")
                seconds.append(time.process_time() - started)
                assert len(found) == count
            print(f"{name:8} {count} rows: {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
