"""The walk of docs/deployment.md, command by command: a server and three parties on one machine, over TLS."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedapp.core.files import POLICY_VARIABLE, ROOT
from fedapp.site.layout import read_party

pytestmark = pytest.mark.slow
STAYS = re.compile(r"fedapp site (server|party)\b")
READY = {"server": "ready: 3 parties", "party": "log: "}


def commands():
    """The indented commands of the page's first section, as one would paste them."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = page.partition("## Ten minutes on one machine")[2].partition("\n## ")[0]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    found, open_loops = [], 0
    for line in lines:
        words = line.split()
        if open_loops or (found and found[-1].endswith("\\")):
            found[-1] += "\n" + line
        else:
            found.append(line)
        open_loops += (words[0] == "for") - (words[0] == "done")
    return found


def free_ports():
    """A free port before another one, which the site takes for its own commands."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Terminals:
    """A shell for each command, all with ``fedapp`` on the PATH."""

    def __init__(self, folder: Path):
        self.folder = folder
        program = folder / "bin" / "fedapp"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedapp "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
        self.env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.env.pop(POLICY_VARIABLE, None)
        self.open = []

    def run(self, command):
        return subprocess.run(
            ["bash", "-ec", command],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=1200,
        )

    def leave_running(self, command, ready):
        log = self.folder / f"terminal-{len(self.open)}.txt"
        with log.open("wb") as output:
            shell = ["bash", "-ec", f"exec {command}"]
            process = subprocess.Popen(shell, cwd=self.folder, env=self.env, stdout=output, stderr=output)
        self.open.append((process, log))
        deadline = time.monotonic() + 400
        while ready not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ready in log.read_text(), log.read_text()

    def close(self):
        for process, _ in self.open:
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process, _ in self.open]


def wait_until_online(terminals):
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        said = terminals.run("fedapp site status").stdout
        if said.count("online") == 3:
            return
    raise AssertionError(said)


def refusals(terminals, folder):
    """What the running server does to a party with a key of its own making."""
    site = read_party(folder / "site" / "party-1")
    made = terminals.run(
        f"fedapp site init --parties 3 --host localhost --port {site.port} --out strange && "
        "cp site/party-1/ca.crt strange/party-1/ca.crt"
    )
    assert made.returncode == 0, made.stderr
    stranger = subprocess.Popen(
        [str(terminals.folder / "bin" / "fedapp"), "site", "party", "strange/party-1"],
        **{"cwd": folder, "env": terminals.env, "stdout": subprocess.PIPE, "text": True},
    )
    try:
        lines = [stranger.stdout.readline() for _ in range(2)]
    finally:
        stranger.terminate()
        stranger.communicate(timeout=60)
    return lines[1]


@pytest.mark.skipif(sys.platform != "linux", reason="ends what it starts by Linux' means")
def test_the_walk_of_the_page_ends_with_the_adapters_of_a_simulation(tmp_path):
    walk = commands()
    assert [word for line in walk for word in STAYS.findall(line)] == ["server", "party", "party", "party"]
    terminals = Terminals(tmp_path)
    try:
        for command in walk:
            if stays := STAYS.match(command):
                terminals.leave_running(command, READY[stays[1]])
                continue
            if command.startswith("fedapp site init"):
                command += f" --port {free_ports()}"
            if command.startswith("fedapp site submit"):
                command += " join_timeout=900"  # where tests run side by side
            if command.startswith("fedapp site status"):
                wait_until_online(terminals)
            done = terminals.run(command)
            early = command.startswith("fedapp doctor")  # before there is a server
            assert done.returncode == int(early), (command, done.stdout, done.stderr)
            if early:
                assert [line for line in done.stdout.splitlines() if line.startswith("problem")] == [
                    line
                    for line in done.stdout.splitlines()
                    if "does not answer (Connection refused)" in line
                ]
                assert "21 train rows" in done.stdout
        said = refusals(terminals, tmp_path)
        assert "was not let in by the server (Flower's exit code 305)" in said, said
    finally:
        codes = terminals.close()
    assert codes == [0, 0, 0, 0]
    for client in range(3):
        kept = (tmp_path / f"site/party-{client}/output/client-{client}/adapter.safetensors").read_bytes()
        assert kept == (tmp_path / f"alone/adapters/client-{client}/adapter.safetensors").read_bytes()
        log = (tmp_path / f"site/party-{client}/state/audit.jsonl").read_text()
        assert {json.loads(line)["outcome"] for line in log.splitlines()} == {"answered"}
    fetched = next((tmp_path / "results").iterdir())
    about = json.loads((fetched / "run.json").read_text())
    assert about["status"] == "completed"
    assert not (fetched / "adapters" / "client-0").exists()  # it never left the party
    left = [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in _text(one)]
    assert left == []


def _text(path):
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
