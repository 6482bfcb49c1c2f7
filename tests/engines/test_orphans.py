"""A run that is to go on while a server app without its SuperLink holds its folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from fedapp.config.build import ConfigError
from fedapp.core.status import is_held, read_status, write_status
from fedapp.engines import orphans
from fedapp.planning.job import make_job
from fedapp.planning.preflight import check_config
from fedapp.records.checkpoints.resume import find_resumable, resumed_words
from tests.federation import run_toy

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at by /proc")

HOLD = """\
import fcntl, os, signal, sys, time
if {stubborn}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = os.open({folder!r}, os.O_RDONLY)
fcntl.flock(file, fcntl.LOCK_SH)
print("held", flush=True)
time.sleep(600)
"""
START = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


@pytest.fixture
def run(tmp_path):
    made = run_toy(tmp_path / "run", "num_rounds=2", "num_clients=2", "method=fedavg", num_nodes=2)
    write_status(made.folder, {**made.json("run"), "status": "running"})
    return made.folder


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def held(tmp_path, run_dir, port, *, name=orphans.SERVER_APP, launcher=None, stubborn=False):
    """A process of that name that holds the run's folder, below one of the launcher's name."""
    program = tmp_path / name
    program.write_text(HOLD.format(folder=str(run_dir), stubborn=stubborn))
    command = [str(program), orphans.ADDRESS, f"127.0.0.1:{port}", "--token", "secret"]
    if launcher:
        (tmp_path / launcher).write_text(START)
        command = [str(tmp_path / launcher), *command]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def go_on(run_dir, said):
    words = resumed_words([f"resume={run_dir}", "num_rounds=3"])
    return make_job(words, check_config(words), said.append)


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_waits_for_a_superlink_that_is_gone_is_ended(tmp_path, run, monkeypatch, stubborn):
    monkeypatch.setattr(orphans, "END_SECONDS", 1.0)
    said = []
    with held(tmp_path, run, free_port(), stubborn=stubborn) as process:
        assert go_on(run, said).run_dir == run
        assert process.wait(10) != 0
    assert said == [
        f"ended process {process.pid} (flwr-serverapp), which its SuperLink had left behind at this run"
    ]


def test_the_server_app_that_goes_on_does_the_same(tmp_path, run):
    config = check_config(resumed_words([f"resume={run}", "num_rounds=3"]))
    with held(tmp_path, run, free_port()):
        assert find_resumable(run, config, print) is not None
    with (
        held(tmp_path, run, free_port(), launcher=orphans.LAUNCHER),
        pytest.raises(ConfigError, match=r"resume=.*: process \d+ \(flwr-serverapp\) is still at work"),
    ):
        find_resumable(run, config, print)


def test_a_superlink_that_answers_is_given_time_and_its_server_app_is_not_ended(tmp_path, run, monkeypatch):
    monkeypatch.setattr(orphans, "LEAVE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as link:
        with (
            held(tmp_path, run, link.getsockname()[1]) as process,
            pytest.raises(ConfigError, match=rf"process {process.pid} \(flwr-serverapp\) is still at work"),
        ):
            go_on(run, [])
        assert is_held(run) is False
        monkeypatch.setattr(orphans, "LEAVE_SECONDS", 60.0)
        with held(tmp_path, run, link.getsockname()[1]) as process:
            monkeypatch.setattr(orphans.time, "sleep", lambda seconds: process.kill() or process.wait())
            said = []
            go_on(run, said)  # it ended by itself, as a SuperLink turns away what is not its own
            assert said == []


def test_a_run_that_was_finished_meanwhile_is_complete(tmp_path, run, monkeypatch):
    config = check_config(resumed_words([f"resume={run}"]))

    def finish(folder, say):
        write_status(folder, {**read_status(folder), "status": "completed"})
        return ""

    monkeypatch.setattr(orphans, "free", finish)
    before = {path: path.read_bytes() for path in run.rglob("*.jsonl")}
    with held(tmp_path, run, free_port()), pytest.raises(ConfigError, match="this run is complete"):
        find_resumable(run, config, print)
    assert {path: path.read_bytes() for path in run.rglob("*.jsonl")} == before


@pytest.mark.parametrize(
    ("name", "launcher"), [("other-program", None), (orphans.SERVER_APP, orphans.LAUNCHER)]
)
def test_whoever_else_works_on_a_run_is_named_and_left_alone(tmp_path, run, name, launcher):
    with held(tmp_path, run, free_port(), name=name, launcher=launcher) as process:
        with pytest.raises(
            ConfigError, match=rf"process \d+ \({name}\) is still at work on this run"
        ) as told:
            go_on(run, [])
        assert process.poll() is None
        assert is_held(run)
    assert "secret" not in str(told.value)
