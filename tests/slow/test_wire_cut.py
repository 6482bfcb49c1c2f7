"""A wire that is cut and comes back, each party in a network namespace of its own, over TLS with keys."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedapp.core.files import POLICY_VARIABLE, ROOT
from fedapp.core.status import UNFINISHED, read_status
from tests.federation import ToyRun, run_toy

pytestmark = [pytest.mark.slow, pytest.mark.long]

PARTIES, ROUNDS = 2, 9
SERVER = "10.213.77.1"
CUT_SECONDS = 15.0
# Flower counts a node as gone a minute after its last heartbeat.
LONG_CUT_SECONDS, MANY_ROUNDS = 110.0, 80
PATIENCE = 600.0
WORDS = ["model=toy", "adapter=toy", "benchmark=toy", "method=fedreft"]
NOWHERE = "02:00:00:00:00:99"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Wires:
    """A namespace for the server, with a switch in it, and one for each party, on a wire to that switch."""

    def __init__(self) -> None:
        stem = f"fa{secrets.token_hex(3)}"
        self.server = f"{stem}-s"
        self.parties = [f"{stem}-{number}" for number in range(PARTIES)]
        for name in (self.server, *self.parties):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self.server, "link", "add", "switch", "type", "bridge")
        ip("-n", self.server, "address", "add", f"{SERVER}/24", "dev", "switch")
        ip("-n", self.server, "link", "set", "switch", "up")
        for number, name in enumerate(self.parties):
            peer = ["peer", "name", "wire", "netns", name]
            ip("link", "add", f"wire-{number}", "netns", self.server, "type", "veth", *peer)
            ip("-n", self.server, "link", "set", f"wire-{number}", "master", "switch", "up")
            ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")

    def address(self, party: int) -> str:
        return f"10.213.77.{party + 2}"

    def cut(self, party: int, way: str) -> None:
        """Let everything that is sent on a wire be lost, without a word to the sender."""
        if way == "both":
            ip("-n", self.server, "link", "set", f"wire-{party}", "down")
        if way == "up":
            self._mislead(self.parties[party], SERVER, "wire")
        if way == "down":
            self._mislead(self.server, self.address(party), "switch")

    def mend(self, party: int, way: str) -> None:
        if way == "both":
            ip("-n", self.server, "link", "set", f"wire-{party}", "up")
        if way == "up":
            ip("-n", self.parties[party], "neighbour", "delete", SERVER, "dev", "wire")
        if way == "down":
            ip("-n", self.server, "neighbour", "delete", self.address(party), "dev", "switch")

    def _mislead(self, namespace: str, address: str, device: str) -> None:
        words = ["lladdr", NOWHERE, "dev", device, "nud", "permanent"]
        ip("-n", namespace, "neighbour", "replace", address, *words)

    def close(self) -> None:
        for name in (self.server, *self.parties):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def wires():
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("network namespaces are Linux', made by ip of iproute2")
    try:
        made = Wires()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {' '.join(error.cmd)}: {error.stderr.strip()}")
    try:
        yield made
    finally:
        made.close()


class Site:
    """A federation's commands, each in the namespace of whoever types it."""

    def __init__(self, folder: Path, wires: Wires) -> None:
        self.folder, self.wires = folder, wires
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.env.pop(POLICY_VARIABLE, None)
        self.open: list[subprocess.Popen[bytes]] = []

    def command(self, namespace: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", namespace, sys.executable, "-m", "fedapp", "site", *words]

    def run(self, namespace: str, *words: str) -> str:
        command = self.command(namespace, *words)
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start(self, namespace: str, *words: str) -> Path:
        log = self.folder / f"log-{len(self.open)}"
        with log.open("wb") as file:
            command = self.command(namespace, *words)
            self.open.append(
                subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=file, stderr=file)
            )
        return log

    def close(self) -> None:
        for process in self.open:
            process.send_signal(signal.SIGTERM)
        for process in self.open:
            process.wait(60)


def wait_for(true, what):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)


def rounds_of(run_dir: Path, client: int) -> list[int]:
    """The rounds to which a client's training counts."""
    path = run_dir / "traffic.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        row["server-round"]
        for row in rows
        if (row["client-id"], row["direction"], row["phase"]) == (client, "up", "train")
    ]


@contextmanager
def running(folder: Path, wires: Wires, words: list[str]) -> Iterator[Path]:
    """A server, its parties and a run that they are at, each in its namespace; the run's folder."""
    site, run_dir = Site(folder, wires), folder / "run"
    site.run(wires.server, "init", "--parties", str(PARTIES), "--host", SERVER)
    try:
        log = site.start(wires.server, "server")
        wait_for(lambda: f"ready: {PARTIES} parties" in log.read_text(), "the server")
        for number, namespace in enumerate(wires.parties):
            site.start(namespace, "party", f"site/party-{number}")
        waits = ["join_timeout=600", "round_timeout=600"]
        site.run(wires.server, "submit", *words, *waits, f"run_dir={run_dir}")
        yield run_dir
    finally:
        site.close()


def wait_for_rounds(run_dir: Path, more: int) -> None:
    """Wait until the second party's training has counted in so many rounds more."""
    begun = len(rounds_of(run_dir, 1))
    wait_for(lambda: len(rounds_of(run_dir, 1)) >= begun + more, "the next round")


def wait_for_the_end(run_dir: Path) -> None:
    wait_for(lambda: read_status(run_dir).get("status") not in UNFINISHED, "the end")


def test_a_wire_that_is_cut_and_comes_back_costs_time_and_no_round(tmp_path, wires):
    words = [*WORDS, f"num_clients={PARTIES}", f"num_rounds={ROUNDS}"]
    whole = run_toy(tmp_path / "whole", *words, num_nodes=PARTIES).adapters()
    with running(tmp_path, wires, words) as run_dir:
        for way in ("both", "up", "down"):
            wait_for_rounds(run_dir, 2)
            assert read_status(run_dir)["status"] == "running"
            wires.cut(1, way)
            time.sleep(CUT_SECONDS / 3)  # what was on its way to the server may have arrived still
            before = rounds_of(run_dir, 1)
            time.sleep(CUT_SECONDS * 2 / 3)
            assert rounds_of(run_dir, 1) == before, way  # else nothing was cut
            wires.mend(1, way)
        wait_for_the_end(run_dir)
    assert (read_status(run_dir)["status"], ToyRun(run_dir).warnings()) == ("completed", [])
    assert rounds_of(run_dir, 1) == list(range(1, ROUNDS + 1))
    assert (run_dir / "adapters" / "shared" / "adapter.safetensors").read_bytes() == whole["shared"]
    for number in range(PARTIES):
        kept = tmp_path / "site" / f"party-{number}" / "output" / f"client-{number}"
        assert (kept / "adapter.safetensors").read_bytes() == whole[f"client-{number}"]


def test_a_party_that_is_away_for_longer_than_flower_waits_loses_rounds_and_comes_back(tmp_path, wires):
    words = [*WORDS, f"num_clients={PARTIES}", f"num_rounds={MANY_ROUNDS}"]
    with running(tmp_path, wires, words) as run_dir:
        wait_for_rounds(run_dir, 2)
        wires.cut(1, "both")
        time.sleep(LONG_CUT_SECONDS)
        lost, others = rounds_of(run_dir, 1), rounds_of(run_dir, 0)
        assert max(others) > max(lost) + 1  # the other party went on
        wires.mend(1, "both")
        wait_for_rounds(run_dir, 3)
        wait_for_the_end(run_dir)
    run = ToyRun(run_dir)
    assert read_status(run_dir)["status"] == "completed"
    assert rounds_of(run_dir, 0) == list(range(1, MANY_ROUNDS + 1))
    assert any("client 1" in text for text in run.warnings())
    for number in range(PARTIES):
        assert (tmp_path / "site" / f"party-{number}" / "output" / f"client-{number}").is_dir()
