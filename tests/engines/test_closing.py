"""The last word on a run whose server could not say it."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedapp.core.errors import reason_of
from fedapp.core.status import has_died
from fedapp.engines import local as in_process
from fedapp.engines.closing import close_run
from fedapp.engines.job import Job, RunFailed


def test_a_signal_is_called_by_its_name():
    assert reason_of(KeyboardInterrupt()) == "interrupted by SIGINT"
    assert reason_of(KeyboardInterrupt(128 + signal.SIGTERM)) == "interrupted by SIGTERM"
    assert reason_of(ValueError("two\nlines")) == "two lines"
    assert reason_of(SystemExit()) == (
        "it was stopped from outside: fedapp site stop, flwr stop, or a signal to its process"
    )


def test_a_folder_that_cannot_be_written_is_no_second_fault(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text('{"status": "running"}')

    def refuse(*arguments: object, **settings: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(os, "write", refuse)
    close_run(tmp_path, "crashed")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert has_died(tmp_path)  # what nobody can write down the lock says


def test_temporary_files_of_a_killed_run_go_when_it_is_closed(tmp_path):
    (tmp_path / "adapters" / "shared").mkdir(parents=True)
    for name in ("run.json.partial", "adapters/shared/adapter.safetensors.partial"):
        (tmp_path / name).write_text("half")
    close_run(tmp_path, "killed")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "events.jsonl",
        "log.txt",
        "run.json",
    ]
    assert {path.name for path in tmp_path.iterdir()} >= {"adapters"}


def test_half_a_line_is_ended_and_the_time_is_told(tmp_path):
    begin = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - 60))
    facts = {"status": "running", "started": begin, "seconds": 0.1, "warnings": ["w"]}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "events.jsonl").write_text('{"event": "start"}\n{"event": "rep')
    close_run(tmp_path, "crashed")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"event": "start"}', '{"event": "rep']
    assert 59 <= json.loads(lines[2])["time"] <= 90
    about = json.loads((tmp_path / "run.json").read_text())
    assert (about["status"], about["reason"], about["warnings"]) == ("failed", "crashed", ["w"])
    assert 59 <= about["seconds"] <= 90
    assert (tmp_path / "log.txt").read_text() == "fedapp: the run failed: crashed\n"


def test_in_process_an_interruption_is_in_the_log_whoever_closed_the_run(monkeypatch, tmp_path):
    def interrupted(job: Job) -> None:
        (tmp_path / "run.json").write_text('{"status": "failed", "reason": "by the server"}')
        raise KeyboardInterrupt

    monkeypatch.setattr(in_process, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_process.run_in_process(Job(tmp_path, tmp_path, "", 1), lambda event: None)
    assert (tmp_path / "log.txt").read_text() == "interrupted by SIGINT\n"
    assert json.loads((tmp_path / "run.json").read_text())["reason"] == "by the server"


@pytest.mark.parametrize("status", ["completed", "failed", "died"])
def test_what_has_been_said_of_the_end_stands(tmp_path, status):
    (tmp_path / "run.json").write_text(json.dumps({"status": status, "reason": "first"}))
    close_run(tmp_path, "second")
    assert json.loads((tmp_path / "run.json").read_text()) == {"status": status, "reason": "first"}
    assert not (tmp_path / "events.jsonl").exists()


def test_in_process_a_log_that_cannot_be_made_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(RunFailed, match=r"log\.txt cannot be written: Is a directory"):
        in_process.run_in_process(Job(tmp_path, tmp_path, "", 1), lambda event: None)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "failed"


def test_in_process_a_full_disk_ends_neither_the_log_nor_the_display(monkeypatch, tmp_path):
    def events(job: Job) -> None:
        print("a line")
        (tmp_path / "events.jsonl").write_text(
            '{"event": "start"}\n{"event": "end", "status": "completed"}\n'
        )

    seen: list[str] = []

    def show(event: Mapping[str, Any]) -> None:
        seen.append(event["event"])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(in_process, "_run", events)
    in_process.run_in_process(Job(tmp_path, tmp_path, "", 1), show)
    assert seen == ["start", "end"]
    with in_process.open_log(Path("/dev/full")) as log:
        print("nobody takes this", file=log)


def test_in_process_a_server_that_did_not_start_leaves_a_run_that_failed(monkeypatch, tmp_path):
    def refused(job: Job) -> None:
        raise RunFailed("server_app cannot be imported")

    monkeypatch.setattr(in_process, "_run", refused)
    with pytest.raises(RunFailed):
        in_process.run_in_process(Job(tmp_path, tmp_path, "", 1), lambda event: None)
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["status"] == "failed"
    assert "cannot be imported" in about["reason"]
