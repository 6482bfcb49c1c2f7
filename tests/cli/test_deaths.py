"""What a command says of a run that was killed, and of an output that takes nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedapp.cli.main import main
from fedapp.cli.run import run_once
from fedapp.core.status import holding, read_status, write_status
from fedapp.toy.adapter import ToyModel
from tests.engines.toy_cli import use_toy_app
from tests.federation import TOY

TOY_CLI = Path(__file__).parent.parent / "engines" / "toy_cli.py"


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The command line on the toy app, in an empty folder; returns where its runs go."""
    import fedapp.cli.run
    import fedapp.core.files
    import fedapp.planning.job

    monkeypatch.setattr(fedapp.core.files, "CONF", fedapp.core.files.CONF)
    monkeypatch.setattr(fedapp.planning.job, "find_app", fedapp.planning.job.find_app)
    monkeypatch.setattr(fedapp.cli.run, "look_ahead", fedapp.cli.run.look_ahead)
    for name in ("server_app", "client_app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    use_toy_app(tmp_path)
    yield tmp_path / "runs"
    for name in ("server_app", "client_app"):
        sys.modules.pop(name, None)


def killed(folder: Path, **facts: object) -> Path:
    folder.mkdir(parents=True)
    write_status(folder, {"status": "running", "reason": "", "pid": 77, **facts})
    return folder


def test_the_next_run_says_that_the_one_before_died_and_notes_it(toy, capsys):
    dead = killed(toy / "20200101-000000-a")
    assert main(["run"]) == 0
    warning = f"fedapp: warning: the run before this one died: process 77 has gone without a word ({dead})\n"
    assert capsys.readouterr().err == warning
    assert read_status(dead)["status"] == "died"
    assert json.loads((dead / "events.jsonl").read_text())["status"] == "died"
    assert main(["run"]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_that_somebody_works_on_has_not_died(toy, capsys):
    alive = killed(toy / "20200101-000000-a")
    with holding(alive):
        assert main(["run"]) == 0
        assert capsys.readouterr().err == ""
        assert read_status(alive)["status"] == "running"


def test_compare_names_the_dead_and_changes_nothing(tmp_path, capsys):
    dead = killed(tmp_path / "a")
    told = killed(tmp_path / "b", status="died", reason="fedapp run (process 5) was killed")
    before = (dead / "run.json").read_bytes()
    with holding(killed(tmp_path / "alive")):
        assert main(["compare", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[:-1] == [
        f"fedapp: warning: {dead} is left out: the run died, process 77 has gone without a word",
        f"fedapp: warning: {tmp_path / 'alive'} is left out: the run has not ended, it is running",
        f"fedapp: warning: {told} is left out: the run died, fedapp run (process 5) was killed",
    ]
    assert (dead / "run.json").read_bytes() == before


def test_a_folder_of_a_dead_run_is_named_as_such(toy, capsys, tmp_path):
    dead = killed(tmp_path / "dead")
    assert main(["run", f"run_dir={dead}"]) == 2
    assert (
        "holds a run that died, process 77 has gone without a word; name a new folder"
        in capsys.readouterr().err
    )


class Full(io.StringIO):
    """A file on a disk that takes nothing more."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_output_that_is_full_is_one_line_and_no_run_without_a_word(toy, capsys, monkeypatch):
    with monkeypatch.context() as outside:
        outside.setattr(sys, "stdout", Full())
        assert main(["run"]) == 1
    (run_dir,) = toy.iterdir()
    fault = "standard output cannot be written: No space left on device"
    assert capsys.readouterr().err == f"fedapp: error: {fault} (run folder: {run_dir})\n"
    about = read_status(run_dir)
    assert (about["status"], about["reason"]) == ("failed", fault)


@pytest.mark.parametrize(
    ("ignored", "status"), [(False, 129), pytest.param(True, 0, marks=pytest.mark.slow)], ids=["", "nohup"]
)
def test_a_terminal_that_goes_away_ends_the_run_unless_it_is_to_go_on(tmp_path, ignored, status):
    command = [
        sys.executable,
        str(TOY_CLI),
        str(tmp_path),
        "run",
        "fault=sleep" if not ignored else "fault=none",
    ]
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(1, handler)
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/events.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == status
    (run_dir,) = tmp_path.glob("runs/*")
    if not ignored:
        assert read_status(run_dir)["reason"] == "interrupted by SIGHUP"


def test_a_scheduler_that_ends_a_job_ends_the_run_and_no_single_client(tmp_path, monkeypatch):
    """As submitit's handler does when Slurm says that the time is up, in the midst of a client's training."""
    before = signal.signal(signal.SIGUSR2, lambda *_: sys.exit(-1))
    trained = ToyModel.train

    def train(self, *arguments, **more):
        if any(tmp_path.glob("*/events.jsonl")):  # the run has begun: a step is tried before
            os.kill(os.getpid(), signal.SIGUSR2)
        return trained(self, *arguments, **more)

    monkeypatch.setattr(ToyModel, "train", train)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_once([*TOY, "engine=local", f"runs_dir={tmp_path}"], io.StringIO())
    finally:
        signal.signal(signal.SIGUSR2, before)
    (folder,) = tmp_path.iterdir()
    assert read_status(folder)["reason"] == "interrupted by SIGUSR2"
    assert "goes on without client" not in (folder / "log.txt").read_text()
