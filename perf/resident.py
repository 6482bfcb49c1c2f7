"""What a round costs in a deployment, beside the work that the parties do in it.

    python perf/resident.py [--rounds 4] [--ways plain resident quick] [--tls] [overrides]

A SuperLink and two SuperNodes on this machine, with TLS where it is asked for, once for each way:
``plain`` is Flower's SuperNode with ``resident=false`` (each message loads its own model), ``resident``
the default, and ``quick`` the same under ``python -m fedapp.engines.flower.supernode``. Per round:
seconds from the end of the round before (the first: from the run's start on the server to its end,
joining included), the slowest party's work by its own clock, processor seconds of it, and what is left
over. Work is slower on a busy machine, so look at the differences. The final adapters of all ways must be
the same bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from fedapp.core.files import POLICY_VARIABLE
from fedapp.engines.flower.home import flower_home
from fedapp.engines.flower.processes import ProcessTree, find_program
from fedapp.engines.flower.superlink import environment
from fedapp.site.certificates import Authority, pem

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("plain", "resident", "quick")
PARTIES = 2
METHOD = ["method=fedreft", *(f"score.{name}=false" for name in ("base", "before", "after"))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def certify(folder: Path) -> tuple[list[str], list[str], str]:
    """Certificates as ``fedapp site init`` makes them: what SuperLink, SuperNodes and ``flwr`` are told."""
    authority = Authority.new("perf")
    certificate, key = authority.issue(["localhost", "127.0.0.1"], 1)
    contents = {"ca.crt": pem(authority.certificate), "link.crt": certificate, "link.key": key}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    ca, crt, secret = (str(folder / name) for name in contents)
    server = ["--ssl-ca-certfile", ca, "--ssl-certfile", crt, "--ssl-keyfile", secret]
    return server, ["--root-certificates", ca], f'root-certificates = "{ca}"\n'


PLAIN = (["--insecure"], ["--insecure"], "insecure = true\n")


def node_command(way: str, link: int, number: int, policy: Path, trust: list[str]) -> list[str]:
    """The command of a party's SuperNode."""
    said = f"partition-id={number} num-partitions={PARTIES} policy='{policy}'"
    said += " resident=false" if way == "plain" else ""
    quick = [sys.executable, "-m", "fedapp.engines.flower.supernode"]
    program = quick if way == "quick" else [find_program("flower-supernode")]
    address = [*trust, "--superlink", f"127.0.0.1:{link}", "--port", str(free_port())]
    return [*program, *address, "--node-config", said]


def run(way: str, folder: Path, overrides: list[str], tls: bool) -> Path:
    """Run once; return the run folder."""
    folder.mkdir()
    served, trust, told = certify(folder) if tls else PLAIN
    run_dir = folder / "run"
    words = [*METHOD, f"num_clients={PARTIES}", "join_timeout=600", *overrides, f"run_dir={run_dir}"]
    with flower_home() as home, (folder / "log.txt").open("wb", buffering=0) as log:
        variables = {k: v for k, v in environment(home, ROOT).items() if k != POLICY_VARIABLE}
        del variables["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]
        variables |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        tree = ProcessTree(variables, home)
        link = free_port()
        config = f'[superlink.here]\naddress = "127.0.0.1:{link}"\n{told}'
        (home / "config.toml").write_text(config)
        server = [find_program("flower-superlink"), *served, "--host", "127.0.0.1", "--port", str(link)]
        try:
            tree.start([*server, "--disable-runtime-dependency-installation"], log.fileno())
            while not answers(link):
                time.sleep(0.1)
            for number in range(PARTIES):
                policy = folder / f"party-{number}.yaml"
                output = str(folder / "kept" / str(number))
                policy.write_text(yaml.safe_dump({"output": output, "log": str(folder / f"audit-{number}")}))
                tree.start(node_command(way, link, number, policy, trust), log.fileno())
            command = [find_program("flwr"), "run", str(ROOT), "here", "--stream"]
            command += ["--run-config", f"overrides={json.dumps(shlex.join(words))}"]
            with (folder / "flwr.txt").open("wb") as said:
                subprocess.run(command, env=variables, cwd=folder, stdout=said, stderr=said, check=False)
        finally:
            tree.end()
    about = json.loads((run_dir / "run.json").read_text())
    if about["status"] != "completed":
        raise SystemExit(f"{way}: {about['status']}: {about['reason']}; see {folder}")
    return run_dir


def rounds(run_dir: Path) -> list[dict[str, float]]:
    """Seconds of each round and of the last evaluation, and of the slowest party's work in it."""
    found, work, before = [], [(0.0, 0.0)], 0.0
    for line in (run_dir / "events.jsonl").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "reply":
            work.append((event["seconds"], event["cpu-seconds"]))
        elif event["event"] == "round":
            slowest = max(work)
            found.append({"wall": event["time"] - before, "work": slowest[0], "cpu": slowest[1]})
            work, before = [(0.0, 0.0)], event["time"]
    return found


def kept(folder: Path) -> str:
    """A digest of both parties' final adapters."""
    files = sorted((folder / "kept").rglob("adapter.safetensors"))
    if len(files) != PARTIES:
        raise SystemExit(f"{len(files)} adapters instead of {PARTIES} in {folder}")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--tls", action="store_true", help="over TLS, as between institutions")
    parser.add_argument("--keep", type=Path, help="keep logs and run folders here")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides (model=smollm2_135m)")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = options.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        for way in options.ways:
            run_dir = run(way, place / way, [f"num_rounds={options.rounds}", *options.overrides], options.tls)
            *found, _ = rounds(run_dir)
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"{way:9s} adapters {kept(place / way)}  {load}")
            for number, one in enumerate(found, 1):
                print(
                    f"  round {number}  {one['wall']:6.1f} s  work {one['work']:6.1f} s "
                    f"({one['cpu']:.1f} s CPU)  beside it {one['wall'] - one['work']:6.1f} s",
                    flush=True,
                )
            if len(found) > 1:
                beside = statistics.median(one["wall"] - one["work"] for one in found[1:])
                print(f"  beside the work of a warm round: median {beside:.1f} s", flush=True)


if __name__ == "__main__":
    main()
