"""The last word on a run whose server could not say it."""

from __future__ import annotations

import json
import signal
import time

import pytest

from fedapp.core.errors import reason_of
from fedapp.engines import local as in_process
from fedapp.engines.closing import close_run
from fedapp.engines.job import Job, RunFailed


def test_a_signal_is_called_by_its_name():
    assert reason_of(KeyboardInterrupt()) == "interrupted by SIGINT"
    assert reason_of(KeyboardInterrupt(128 + signal.SIGTERM)) == "interrupted by SIGTERM"
    assert reason_of(ValueError("two\nlines")) == "two lines"


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


def test_in_process_a_server_that_did_not_start_leaves_a_run_that_failed(monkeypatch, tmp_path):
    def refused(job: Job) -> None:
        raise RunFailed("server_app cannot be imported")

    monkeypatch.setattr(in_process, "_run", refused)
    with pytest.raises(RunFailed):
        in_process.run_in_process(Job(tmp_path, tmp_path, "", 1), lambda event: None)
    about = json.loads((tmp_path / "run.json").read_text())
    assert about["status"] == "failed"
    assert "cannot be imported" in about["reason"]
