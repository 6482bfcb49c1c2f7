"""Runs killed for real, in every way to run them, go on: the adapters are the same to the bit."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from fedapp.core.files import POLICY_VARIABLE, ROOT
from fedapp.core.status import has_died, read_status
from fedapp.engines.flower.home import flower_home
from fedapp.engines.flower.processes import ProcessTree, find_program
from fedapp.engines.flower.superlink import environment

pytestmark = pytest.mark.slow

TOY = ["model=toy", "adapter=toy", "benchmark=toy", "method=fedreft"]
WORDS = [sys.executable, "-m", "fedapp", "run"]


def adapters(run_dir: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in run_dir.glob("adapters/*/adapter.safetensors")}


def fedapp_run(*words: str) -> None:
    done = subprocess.run(
        [*WORDS, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr


def kill_at(run_dir: Path, num_rows: int, *words: str) -> None:
    """Start a run, kill it once so many messages have gone, and wait until its folder says so."""
    process = subprocess.Popen(
        [*WORDS, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path = run_dir / "traffic.jsonl"
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= num_rows, process)
    process.kill()
    process.wait()
    wait_for(lambda: has_died(run_dir), None)


def wait_for(true, process, seconds=900.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert process is None or process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.002)


def test_a_killed_run_goes_on_in_process_and_on_flowers_engine(tmp_path):
    rounds = ["num_rounds=60", "num_clients=3", "engine=local"]
    fedapp_run(*TOY, *rounds, f"run_dir={tmp_path / 'whole'}")
    run_dir = tmp_path / "killed"
    kill_at(run_dir, 120, *TOY, *rounds, f"run_dir={run_dir}")
    for num_rows in (200, 310):  # in the middle of a round, at a moment that nobody chose to the millisecond
        kill_at(run_dir, num_rows, f"resume={run_dir}")
    trained = max(
        json.loads(line)["server-round"] for line in (run_dir / "traffic.jsonl").read_text().splitlines()
    )
    fedapp_run(f"resume={run_dir}", "engine=flwr" if sys.platform == "linux" else "engine=local")
    assert trained < 60
    assert read_status(run_dir)["status"] == "completed"
    assert adapters(run_dir) == adapters(tmp_path / "whole")
    assert len(adapters(run_dir)) == 4


class Deployment:
    """A SuperLink with two SuperNodes, each with a policy and a disk of its own."""

    def __init__(self, tree: ProcessTree, home: Path, folder: Path, log: int) -> None:
        self.tree, self.home, self.folder, self.log = tree, home, folder, log
        self.port = _free_port()
        address = f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
        (home / "config.toml").write_text(f"[superlink.here]\n{address}")

    def link(self) -> subprocess.Popen[bytes]:
        command = [
            find_program("flower-superlink"),
            "--insecure",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        command += ["--database", str(self.folder / "link.db"), "--disable-runtime-dependency-installation"]
        process = self.tree.start(command, self.log)
        wait_for(lambda: _answers(self.port), process)
        return process

    def node(self, number: int) -> subprocess.Popen[bytes]:
        policy = self.folder / f"party-{number}.yaml"
        folders = {name: str(self.folder / f"party-{number}" / name) for name in ("output", "memory", "log")}
        policy.write_text(yaml.safe_dump(folders))
        said = f"partition-id={number} num-partitions=2 policy='{policy}'"
        command = [find_program("flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{self.port}"]
        return self.tree.start([*command, "--port", str(_free_port()), "--node-config", said], self.log)

    def submit(self, *words: str) -> subprocess.Popen[bytes]:
        command = [find_program("flwr"), "run", str(ROOT), "here", "--stream"]
        command += ["--run-config", f"overrides={json.dumps(shlex.join(words))}"]
        return self.tree.start(command, self.log)


@contextmanager
def deployment(folder: Path):
    with flower_home() as home, (folder / "log.txt").open("wb", buffering=0) as log:
        variables = {k: v for k, v in environment(home, ROOT).items() if k != POLICY_VARIABLE}
        tree = ProcessTree(variables, home)
        try:
            yield Deployment(tree, home, folder, log.fileno())
        finally:
            tree.end()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ends what it starts by Linux' means")
@pytest.mark.parametrize("whole_family", [True, False])
def test_a_deployment_goes_on_after_its_superlink_and_a_party_were_killed(tmp_path, whole_family):
    settings = [*TOY, "num_clients=2", "num_rounds=3", "join_timeout=600"]
    fedapp_run(*settings, "engine=local", f"run_dir={tmp_path / 'whole'}")
    run_dir = tmp_path / "run"
    with deployment(tmp_path) as here:
        link = here.link()
        nodes = [here.node(0), here.node(1)]
        here.submit(*settings, f"run_dir={run_dir}")
        wait_for(lambda: (run_dir / "checkpoints" / "server" / "round-000002.safetensors").exists(), link)
        # As a machine that goes down, or systemd, which ends a unit's whole family; or the SuperLink alone,
        # whose server app waits for it then and holds the run.
        family = psutil.Process(link.pid).children(recursive=True) if whole_family else []
        for process in (link, nodes[1]):
            process.send_signal(signal.SIGKILL)
            process.wait()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        if not whole_family:
            time.sleep(75)  # a SuperLink that is back within a minute takes its server app back
        link = here.link()
        here.node(1)
        if whole_family:
            wait_for(lambda: has_died(run_dir), link)
        here.submit(f"resume={run_dir}")
        wait_for(lambda: read_status(run_dir).get("status") == "completed", link)
    assert not read_status(run_dir)["warnings"] or "memory" not in str(read_status(run_dir)["warnings"])
    kept = {f"client-{n}": tmp_path / f"party-{n}" / "output" / f"client-{n}" for n in (0, 1)}
    found = {name: (folder / "adapter.safetensors").read_bytes() for name, folder in kept.items()}
    whole = adapters(tmp_path / "whole")
    assert found == {name: whole[name] for name in kept}
    assert adapters(run_dir) == {"shared": whole["shared"]}
    assert len(list((tmp_path / "party-1" / "memory").glob("*/client-1/round-*.safetensors"))) == 3
