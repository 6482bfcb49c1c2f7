"""A launcher of another project leaves no job behind, and gives up in one line."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from hydra.core.plugins import Plugins

from fedapp.config.sweep import SweepStopped, launch

DIED = "Job 7_0\nhas not produced any output (state: CANCELLED)\nError stream produced:\n----\nthe whole log"
JOBS = {number: [f"seed={number}"] for number in (1, 2, 3)}


class Job:
    """A job of submitit's: the first one died, the others run until somebody waits for them."""

    def __init__(self, number, happened):
        self.number, self.happened = number, happened

    def wait(self):
        if "interrupt" in self.happened:
            raise KeyboardInterrupt
        self.happened.append(f"{self.number} ended")

    def results(self):
        if self.number == 0:
            raise RuntimeError(DIED)
        return ["done"]

    def cancel(self, check=True):
        self.happened.append(f"{self.number} cancelled")


@pytest.fixture
def happened(monkeypatch):
    """What happened to the jobs of submitit and its launcher, as far as these matter here."""
    happened = []

    class Executor:
        def map_array(self, task, words):
            return [Job(number, happened) for number in range(len(words))]

    class Launcher:
        def launch(self, words, initial_job_idx):
            return [job.results()[0] for job in Executor().map_array(print, words)]

    for name in ("submitit", "submitit.core", "submitit.core.core"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["submitit.core.core"].Executor = Executor
    monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", lambda **_: Launcher())
    return happened


def test_submitits_launcher_waits_for_all_its_jobs_before_it_says_that_one_died(happened, tmp_path):
    with pytest.raises(SweepStopped) as caught:
        launch(lambda *_: None, JOBS, [], tmp_path)
    assert happened == ["0 ended", "1 ended", "2 ended"]
    assert str(caught.value) == "RuntimeError: Job 7_0 has not produced any output (state: CANCELLED)"


def test_an_interrupted_sweep_leaves_no_job_to_slurm(happened, tmp_path):
    happened.append("interrupt")
    with pytest.raises(KeyboardInterrupt):
        launch(lambda *_: None, JOBS, [], tmp_path)
    assert happened == ["interrupt", "0 cancelled", "1 cancelled", "2 cancelled"]


def test_submitit_is_left_as_it_was(happened, tmp_path):
    kind = sys.modules["submitit.core.core"].Executor
    before = kind.map_array
    with pytest.raises(SweepStopped):
        launch(lambda *_: None, JOBS, [], tmp_path)
    assert kind.map_array is before
