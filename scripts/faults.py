"""Inject faults into federations of toy clients and print what became of each: the table of docs/reliability.md.

    python scripts/faults.py                      # all
    python scripts/faults.py reply party          # those whose name holds one of the words

*In process* is the in-process grid, whose network loses, repeats, reorders and changes replies. *Deployed* is a
SuperLink and three SuperNodes of this machine's own, started anew for each fault, without TLS. A round is lost to
a client if none of what it sent in it was used. Recovery is the time from the fault until the round in which it
happened is over; its length without a fault stands in the first deployed line.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import yaml  # noqa: E402
from flwr.app import Message  # noqa: E402

import client_app  # noqa: E402
import server_app  # noqa: E402
from fedapp.client import workplace as workplaces  # noqa: E402
from fedapp.core.files import POLICY_VARIABLE  # noqa: E402
from fedapp.core.payload import Payload  # noqa: E402
from fedapp.engines.flower.home import flower_home  # noqa: E402
from fedapp.engines.flower.processes import ProcessTree, find_program  # noqa: E402
from fedapp.engines.flower.superlink import environment  # noqa: E402
from fedapp.engines.grid import Network, run_local  # noqa: E402
from fedapp.wire.records import Envelope, pack, unpack  # noqa: E402

PARTIES, ROUNDS, VICTIM = 3, 4, 1
TOY = ["model=toy", "adapter=toy", "benchmark=toy", f"num_clients={PARTIES}", f"num_rounds={ROUNDS}"]
PATIENCE = 900.0  # seconds for anything to happen; a busy machine takes its time


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        status: Of run.json; where there is none, why.
        lost: Rounds of which nothing that the victim sent was used.
        recovery: Seconds from the fault to the end of its round; None where there was no such moment.
        said: What the run's user was told of it first.
    """

    status: str
    lost: int = 0
    recovery: float | None = None
    said: str = ""


def read(run_dir: Path) -> Outcome:
    """A run folder's own words."""
    file = run_dir / "run.json"
    if not file.exists():
        return Outcome("no run folder")
    about = json.loads(file.read_text())
    traffic = [json.loads(line) for line in lines(run_dir / "traffic.jsonl")]
    used = {
        row["server-round"]
        for row in traffic
        if (row["direction"], row["client-id"], row["phase"]) == ("up", VICTIM, "train")
    }
    asked = {row["server-round"] for row in traffic if row["phase"] == "train"}
    told = [event["message"] for event in events(run_dir) if event["event"] == "warning"]
    reason = about.get("reason") or next((text for text in told if "round" in text or "node" in text), "")
    return Outcome(about["status"], len(asked - used), None, reason)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def events(run_dir: Path) -> list[dict[str, Any]]:
    found = []
    for line in lines(run_dir / "events.jsonl"):
        with suppress(ValueError):  # half a line is still being written
            found.append(json.loads(line))
    return found


# In process


def in_round_2(change: Callable[[Message], Message]) -> Callable[[int, Message], Message]:
    """A network that changes the victim's reply of round 2."""

    def tamper(client_id: int, reply: Message) -> Message:
        meant = client_id == VICTIM and reply.metadata.message_type == "train"
        return change(reply) if meant and reply.metadata.group_id == "2" else reply

    return tamper


def with_arrays(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Message], Message]:
    def changed(reply: Message) -> Message:
        envelope = unpack(reply.content)
        reply.content.clear()
        payload = Payload(change(dict(envelope.payload.arrays)), envelope.payload.texts)
        reply.content.update(pack(Envelope(envelope.facts, payload)))
        return reply

    return changed


def emptied(reply: Message) -> Message:
    reply.content.clear()
    return reply


def lost_in_round_2(client_id: int, request: Message) -> bool:
    return (client_id, request.metadata.message_type, request.metadata.group_id) == (VICTIM, "train", "2")


NETWORKS = {
    "no fault": Network(),
    "a reply is lost": Network(drop=lost_in_round_2),
    "replies arrive twice, the last first": Network(reverse=True, repeat=lambda client, request: True),
    "a reply of values that are not numbers": Network(
        tamper=in_round_2(with_arrays(lambda a: {n: np.full_like(v, np.nan) for n, v in a.items()}))
    ),
    "a reply of other shapes": Network(
        tamper=in_round_2(with_arrays(lambda a: {n: np.append(v, v) for n, v in a.items()}))
    ),
    "a reply that is no message": Network(tamper=in_round_2(emptied)),
}


def in_process(name: str, folder: Path) -> Outcome:
    """A run on the in-process grid."""
    run_dir = folder / "run"
    overrides = shlex.join([*TOY, "engine=local", "round_timeout=3", f"run_dir={run_dir}"])
    config = {"overrides": overrides}
    try:
        with (folder / "log.txt").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            run_local(
                server_app.app, client_app.app, num_nodes=PARTIES, run_config=config, network=NETWORKS[name]
            )
    finally:
        workplaces.close()
    return read(run_dir)


# Deployed


@dataclass
class Deployment:
    """A SuperLink and its SuperNodes, and the run that they are at."""

    tree: ProcessTree
    folder: Path
    log: int
    port: int
    link: subprocess.Popen[bytes]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def add_party(self, number: int) -> None:
        policy = self.folder / f"party-{number}.yaml"
        policy.write_text(yaml.safe_dump({"output": str(self.folder / "kept"), "log": f"{policy}.log"}))
        said = f"partition-id={number} num-partitions={PARTIES} policy='{policy}'"
        command = [find_program("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self.port}"]
        command += ["--port", str(free_port()), "--node-config", said]
        self.nodes.append(self.tree.start(command, self.log))

    def submit(self) -> None:
        words = [*TOY, "join_timeout=600", "round_timeout=600", f"run_dir={self.run_dir}"]
        config = f"overrides={json.dumps(shlex.join(words))}"
        self.tree.start([find_program("flwr"), "run", str(ROOT), "here", "--run-config", config], self.log)

    def rounds_done(self) -> int:
        return sum(event["event"] == "round" for event in events(self.run_dir))

    def is_over(self) -> bool:
        file = self.run_dir / "run.json"
        return file.exists() and json.loads(file.read_text())["status"] not in ("running", "starting")

    def wait(self, until: Callable[[], Any], patience: float = PATIENCE) -> bool:
        deadline = time.monotonic() + patience
        while not until() and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(until())

    def descendant(self, of: subprocess.Popen[bytes], program: str) -> psutil.Process | None:
        with suppress(psutil.Error):
            for process in psutil.Process(of.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if any(program in word for word in process.cmdline()):
                        return process
        return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """A federation that waits for a run; it ends with the block."""
    with flower_home() as home, (folder / "log.txt").open("wb", buffering=0) as log:
        variables = {key: value for key, value in environment(home, ROOT).items() if key != POLICY_VARIABLE}
        variables |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        tree, port = ProcessTree(variables, home), free_port()
        (home / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
        command = [find_program("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--disable-runtime-dependency-installation", "--database", str(folder / "state.db")]
        try:
            found = Deployment(tree, folder, log.fileno(), port, tree.start(command, log.fileno()))
            if not found.wait(lambda: answers(port)):
                raise SystemExit(f"Flower's SuperLink does not start; see {folder / 'log.txt'}")
            for number in range(PARTIES):
                found.add_party(number)
            yield found
        finally:
            tree.end()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nothing(deployed: Deployment) -> bool:
    return True


def kill_party(deployed: Deployment) -> bool:
    os.kill(deployed.nodes[VICTIM].pid, signal.SIGKILL)
    return True


def kill_work(deployed: Deployment) -> bool:
    """The process of the victim's message, once there is one."""
    victim = deployed.nodes[VICTIM]
    if not deployed.wait(lambda: deployed.descendant(victim, "flwr-clientapp"), 120):
        return False
    process = deployed.descendant(victim, "flwr-clientapp")
    with suppress(psutil.Error):
        if process is not None:
            process.kill()
            return True
    return False


def kill_server_app(deployed: Deployment) -> bool:
    process = deployed.descendant(deployed.link, "flwr-serverapp")
    if process is not None:
        process.kill()
    return process is not None


def freeze_party(deployed: Deployment) -> bool:
    """The victim stands still for 20 s, as a machine does that swaps or whose wire is out."""
    victim = psutil.Process(deployed.nodes[VICTIM].pid)
    frozen = [victim, *victim.children(recursive=True)]
    for process in frozen:
        with suppress(psutil.Error):
            process.suspend()
    time.sleep(20)
    for process in frozen:
        with suppress(psutil.Error):
            process.resume()
    return True


FAULTS: dict[str, Callable[[Deployment], bool]] = {
    "no fault": nothing,
    "a party's SuperNode is killed": kill_party,
    "a party's process at work is killed": kill_work,
    "a party stands still for 20 s": freeze_party,
    "the server app is killed": kill_server_app,
}


def deployed(name: str, folder: Path) -> Outcome:
    """A run of a deployment in whose round 2 the fault happens."""
    with deployment(folder) as found:
        found.submit()
        if not found.wait(lambda: found.rounds_done() >= 1 or found.is_over()):
            return Outcome("round 1 was not over in time")
        began = time.monotonic()
        if not FAULTS[name](found):
            return Outcome("the fault could not be injected")
        found.wait(lambda: found.rounds_done() >= 2 or found.is_over(), 240)
        over = time.monotonic() - began if found.rounds_done() >= 2 else None
        found.wait(found.is_over, 300 if over is not None else 1)
        outcome = read(found.run_dir)
        outcome.recovery = over
        return outcome


def main() -> None:
    """Inject and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only faults whose name holds one of them")
    options = parser.parse_args()
    ways = (("in process", NETWORKS, in_process), ("deployed", FAULTS, deployed))
    print(f"{'':<50} {'run':<10} {'lost':>4} {'recovery':>9}")
    for way, faults, play in ways:
        for name in faults:
            if options.words and not any(word in name for word in options.words):
                continue
            with tempfile.TemporaryDirectory() as folder:
                outcome = play(name, Path(folder))
            took = "" if outcome.recovery is None else f"{outcome.recovery:7.1f} s"
            print(f"{way + ': ' + name:<50} {outcome.status:<10} {outcome.lost:>4} {took:>9}")
            if outcome.said:
                print(f"    {outcome.said[:150]}", flush=True)


if __name__ == "__main__":
    main()
