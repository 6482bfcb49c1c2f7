"""A large adapter through a real SuperLink on this machine: seconds, memory and processor time by program.

    python perf/large_upload.py [--megabytes 200] [--parties 1]

Toy clients, whose vectors are made as long as is asked for, in two rounds under FedAvg without TLS; in
the second round the adapter travels in both directions. Peaks are of resident memory, seen once a second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
from deployed_faults import Deployment, deployment, events, lines, read

PROGRAMS = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "server app",
    "flower-supernode": "SuperNode",
    "fedapp.client.resident": "resident worker",
    "flwr-clientapp": "a message's process",
}


class Watch:
    """Peak of memory and processor seconds of each program of a deployment."""

    def __init__(self, found: Deployment) -> None:
        self.found = found
        self.looked = 0.0
        self.peak: dict[str, int] = defaultdict(int)
        self.spent: dict[tuple[str, int], float] = {}

    def look(self) -> bool:
        """Take a look at all of them, once a second at most; whether the run is over."""
        if time.monotonic() - self.looked < 1:
            return False
        self.looked = time.monotonic()
        for process in self.found.tree.members():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                name = next((name for word, name in PROGRAMS.items() if word in words), None)
                if name is None:
                    continue
                times = process.cpu_times()
                self.peak[name] = max(self.peak[name], process.memory_info().rss)
                self.spent[name, process.pid] = times.user + times.system
        return self.found.is_over()

    def seconds(self, program: str) -> float:
        """Of all processes of a program."""
        return sum(spent for (name, _), spent in self.spent.items() if name == program)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=200.0, help="of an upload, in millions of bytes")
    parser.add_argument("--parties", type=int, default=1)
    options = parser.parse_args()
    size = int(options.megabytes * 1e6 / 12)  # three vectors of fp32
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with deployment(Path(folder), options.parties) as found:
            watch = Watch(found)
            few = ["num_rounds=2", f"num_clients={options.parties}", f"adapter.size={size}"]
            quiet = [f"score.{name}=false" for name in ("base", "before", "after")]
            found.submit(*few, *quiet, "method=fedavg", "round_timeout=1500")
            found.wait(watch.look, 1500)
        outcome = read(found.run_dir)
        traffic = [json.loads(line) for line in lines(found.run_dir / "traffic.jsonl")]
        print(f"{outcome.status}; {options.parties} parties {outcome.said}")
        for way in ("up", "down"):
            sent = [row["wire-bytes"] for row in traffic if row["direction"] == way]
            print(f"  {way:<5} {len(sent)} messages, the largest {max(sent, default=0) / 1e6:.1f} MB")
        ends = [event["time"] for event in events(found.run_dir) if event["event"] == "round"]
        gaps = [later - sooner for sooner, later in zip([0.0, *ends], ends, strict=False)]
        print("  seconds of round 1, round 2, the last scores: " + ", ".join(f"{gap:.1f}" for gap in gaps))
        for name in PROGRAMS.values():
            peak, spent = watch.peak[name] / 1e9, watch.seconds(name)
            print(f"  {name:<20} peak {peak:6.2f} GB  {spent:7.1f} s of processor")


if __name__ == "__main__":
    main()
