"""Peak memory of a simulation in one process, with few clients and with many.

Run: ``python perf/memory.py [--clients 4 64] [--rank 8] [--rounds 2] [method=fedreft …]``

Each run is a process of its own (``engine=local``: server and clients in it, one after the other), with
equally many rows per client. Printed is the peak resident memory as the system counts it. What a
round holds grows by nature: every client's upload while they are combined, every message on its way;
what waits for its turn lies on disk (``TMPDIR``, which is memory itself where that is a tmpfs). The last
column says how many adapters' worth of memory a further client costs. With three rounds or more a second
line says how resident memory grows from the end of round 2 to the end of the last one, scoring included.
Of a ``model=toy adapter=toy`` the rank is not a setting: ``--rank 0`` leaves it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN_ROWS, TEST_ROWS = 20, 5  # per client
CHILD = """
import json, psutil, resource, sys
from fedapp.cli.run import run
from fedapp.records.folder import RunFolder
seen, done = [], RunFolder.round_done
def noted(*about):
    done(*about)
    seen.append(psutil.Process().memory_info().rss / 1024)
RunFolder.round_done = noted
code = run(json.loads(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
open(sys.argv[2], "w").write(json.dumps([peak, seen]))
sys.exit(code)
"""


def peak_mib(clients: int, rank: int, rounds: int, overrides: list[str]) -> tuple[float, list[float], float]:
    """Peak resident MiB of one run, MiB at each round's end, and the MiB of one client's upload."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            "engine=local",
            "benchmark=embedded",
            f"benchmark.num_train={TRAIN_ROWS * clients}",
            f"benchmark.num_test={TEST_ROWS * clients}",
            "benchmark.recipe.num_epochs=1",
            f"num_rounds={rounds}",
            f"num_clients={clients}",
            *(f"score.{name}=false" for name in ("base", "before", "after")),
            *([f"adapter.rank={rank}"] if rank else []),
            *overrides,
            f"run_dir={folder}/run",
        ]
        result = Path(folder) / "peak"
        root = str(Path(__file__).resolve().parent.parent)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(settings), str(result)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode:
            raise SystemExit(done.stderr.strip() or done.stdout.strip())
        rows = [
            json.loads(line) for line in (Path(folder) / "run" / "traffic.jsonl").read_text().splitlines()
        ]
        upload = max(row["payload-bytes"] for row in rows if row["direction"] == "up")
        peak, seen = json.loads(result.read_text())
        return peak / 1024, [size / 1024 for size in seen], upload / 2**20


def main() -> None:
    """Measure and print one line per number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 64])
    parser.add_argument("--rank", type=int, default=8, help="of the adapter, which sets its size")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides (method=fedavg)")
    options = parser.parse_intermixed_args()
    first: tuple[int, float] | None = None
    for clients in options.clients:
        peak, seen, upload = peak_mib(clients, options.rank, options.rounds, options.overrides)
        first = first or (clients, peak)
        line = f"{clients:5d} clients  peak {peak:8.1f} MiB  {peak / first[1]:5.3f} x"
        if clients != first[0]:
            more = (peak - first[1]) / (clients - first[0])
            size = f" = {more / upload:.1f} uploads of {1024 * upload:.0f} KiB" if upload else ""
            line += f"  {1024 * more:.0f} KiB per further client{size}"
        print(line, flush=True)
        if options.rounds > 2:
            ends = " ".join(f"{size:.0f}" for size in seen)
            print(
                f"      MiB at the rounds' ends: {ends}; last / round 2: {seen[-1] / seen[1]:.3f}", flush=True
            )


if __name__ == "__main__":
    main()
