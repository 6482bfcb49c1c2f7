"""A SuperLink and SuperNodes of this machine, and faults that happen to them; see ``perf/faults.py``."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fedapp.core.files import POLICY_VARIABLE  # noqa: E402
from fedapp.core.status import DIED, UNFINISHED, has_died, how_it_died, read_status  # noqa: E402
from fedapp.engines.flower.home import flower_home  # noqa: E402
from fedapp.engines.flower.processes import ProcessTree, find_program  # noqa: E402
from fedapp.engines.flower.superlink import environment  # noqa: E402

PARTIES, ROUNDS, VICTIM = 3, 8, 1
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
    if has_died(run_dir):
        return Outcome(DIED, len(asked - used), None, how_it_died(run_dir))
    return Outcome(about["status"], len(asked - used), None, reason)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def events(run_dir: Path) -> list[dict[str, Any]]:
    found = []
    for line in lines(run_dir / "events.jsonl"):
        with suppress(ValueError):  # half a line is still being written
            found.append(json.loads(line))
    return found


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

    def add_party(self, number: int, parties: int) -> subprocess.Popen[bytes]:
        policy = self.folder / f"party-{number}.yaml"
        policy.write_text(yaml.safe_dump({"output": str(self.folder / "kept"), "log": f"{policy}.log"}))
        said = f"partition-id={number} num-partitions={parties} policy='{policy}'"
        command = [find_program("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self.port}"]
        command += ["--port", str(free_port()), "--node-config", said]
        self.nodes.append(self.tree.start(command, self.log))
        return self.nodes[-1]

    def submit(self, *overrides: str) -> None:
        words = [*TOY, "join_timeout=600", "round_timeout=600", f"run_dir={self.run_dir}", *overrides]
        config = f"overrides={json.dumps(shlex.join(words))}"
        self.tree.start([find_program("flwr"), "run", str(ROOT), "here", "--run-config", config], self.log)

    def rounds_done(self) -> int:
        return sum(event["event"] == "round" for event in events(self.run_dir))

    def is_over(self) -> bool:
        about = read_status(self.run_dir)
        return bool(about) and (about["status"] not in UNFINISHED or has_died(self.run_dir))

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
def deployment(folder: Path, parties: int = PARTIES) -> Iterator[Deployment]:
    """A federation that waits for a run; it ends with the block."""
    with flower_home() as home, (folder / "log.txt").open("wb", buffering=0) as log:
        variables = {key: value for key, value in environment(home, ROOT).items() if key != POLICY_VARIABLE}
        variables |= {"XDG_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(ROOT)}
        tree, port = ProcessTree(variables, home), free_port()
        (home / "config.toml").write_text(
            f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        command = [find_program("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--disable-runtime-dependency-installation", "--database", str(folder / "state.db")]
        try:
            found = Deployment(tree, folder, log.fileno(), port, tree.start(command, log.fileno()))
            if not found.wait(lambda: answers(port)):
                raise SystemExit(f"Flower's SuperLink does not start; see {folder / 'log.txt'}")
            for number in range(parties):
                found.add_party(number, parties)
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


def kill_and_start_party(deployed: Deployment) -> bool:
    """Without keys it comes back as another node, as soon as Flower has noticed that the old one is gone."""
    kill_party(deployed)
    deployed.nodes[VICTIM].wait()
    deployed.nodes[VICTIM] = deployed.add_party(VICTIM, PARTIES)
    deployed.nodes.pop()
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


DEPLOYED: dict[str, Callable[[Deployment], bool]] = {
    "no fault": nothing,
    "a party's SuperNode is killed": kill_party,
    "a party's SuperNode is killed and started again": kill_and_start_party,
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
        if not DEPLOYED[name](found):
            return Outcome("the fault could not be injected")
        found.wait(lambda: found.rounds_done() >= 2 or found.is_over(), 240)
        over = time.monotonic() - began if found.rounds_done() >= 2 else None
        found.wait(found.is_over, 300 if over is not None else 1)
        outcome = read(found.run_dir)
        outcome.recovery = over
        return outcome
