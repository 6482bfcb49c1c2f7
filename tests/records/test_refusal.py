"""A run that cannot begin leaves a folder that says why, whenever the server app starts."""

from __future__ import annotations

import json
import logging
import shlex

import pytest

import client_app
import server_app
from fedapp.config.build import ConfigError
from fedapp.core.errors import one_line
from fedapp.core.status import read_status, write_status
from fedapp.engines.grid import run_local
from fedapp.server.log import show_explained_in_one_line
from tests.federation import TOY, run_toy


def start(overrides: str) -> None:
    run_local(server_app.app, client_app.app, num_nodes=1, run_config={"overrides": overrides})


WRONG = [
    ("num_rounds=0", "num_rounds=0 must be"),
    ("method=nope", "method=nope does not exist"),
    ("nothing=1", "nothing is not a setting"),
    ("num_rounds=[", "cannot be read"),
    ("'", "a quotation mark is not closed"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_the_folder_that_was_named_says_why(tmp_path, capsys, wrong, reason):
    overrides = f"{shlex.join(TOY)} run_dir={tmp_path}/run {wrong}"
    with pytest.raises(ConfigError, match=reason) as caught:
        start(overrides)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", one_line(caught.value))
    assert about["overrides"] == overrides
    assert about["versions"]["fedapp"]
    (end,) = map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
    assert (end["event"], end["status"], end["message"]) == ("end", "failed", about["reason"])
    assert f"the reason is in {tmp_path / 'run'}\n" in capsys.readouterr().err


def test_without_a_name_a_new_folder_is_made_where_runs_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with pytest.raises(ConfigError):
            start(shlex.join([*TOY, "num_rounds=0"]))
    with pytest.raises(ConfigError):
        start(shlex.join([*TOY, "num_rounds=0", "runs_dir='other runs'"]))
    assert len(list((tmp_path / "runs").glob("*-refused*/run.json"))) == 2
    assert len(list((tmp_path / "other runs").glob("*-refused/run.json"))) == 1


def test_the_run_of_another_is_not_touched(tmp_path):
    write_status(tmp_path, {"status": "completed", "reason": ""})
    for name in (f"{tmp_path.name}-refused", f"{tmp_path.name}-refused-2"):
        with pytest.raises(ConfigError, match="already holds a run"):
            run_toy(tmp_path)
        assert "already holds a run" in read_status(tmp_path.parent / name)["reason"]
    assert read_status(tmp_path) == {"status": "completed", "reason": ""}


def test_a_folder_made_for_the_run_is_taken(tmp_path):
    write_status(tmp_path, {"status": "starting", "reason": "", "pid": 1})
    assert run_toy(tmp_path, "num_rounds=1").json("run")["status"] == "completed"


def test_flowers_log_has_one_line_and_no_traceback(caplog):
    show_explained_in_one_line()
    show_explained_in_one_line()
    logger = logging.getLogger("flwr")
    propagated, logger.propagate = logger.propagate, True
    try:
        for error in (ConfigError("rank=0 must be\nat least 1"), ValueError("a fault of ours")):
            logger.error("%s raised an exception", "ServerApp", exc_info=error)
    finally:
        logger.propagate = propagated
    explained, fault = caplog.records
    assert explained.getMessage() == "ServerApp raised an exception: rank=0 must be at least 1"
    assert explained.exc_info is None
    assert fault.exc_info is not None
