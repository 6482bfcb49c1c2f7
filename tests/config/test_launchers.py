"""A launcher of another project gives up late, and in one line."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from hydra.core.plugins import Plugins

from fedapp.config.sweep import SweepStopped, launch

DIED = "Job 7_0\nhas not produced any output (state: CANCELLED)\nError stream produced:\n----\nthe whole log"


@pytest.fixture
def asked(monkeypatch):
    """What matters of submitit and its launcher: the first job died, the others run on."""
    asked = []

    class Job:
        def __init__(self, number):
            self.number = number

        def results(self):
            asked.append(self.number)
            if self.number == 0:
                raise RuntimeError(DIED)
            return ["done"]

    class Launcher:
        def launch(self, words, initial_job_idx):
            return [job.results()[0] for job in [Job(number) for number in range(len(words))]]

    for name in ("submitit", "submitit.core", "submitit.core.core"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["submitit.core.core"].Job = Job
    monkeypatch.setattr(Plugins.instance(), "instantiate_launcher", lambda **_: Launcher())
    return asked


def test_submitits_launcher_waits_for_all_its_jobs_before_it_says_that_one_died(asked, tmp_path):
    jobs = {number: [f"seed={number}"] for number in (1, 2, 3)}
    with pytest.raises(SweepStopped) as caught:
        launch(lambda *_: None, jobs, [], tmp_path)
    assert asked == [0, 1, 2]
    assert str(caught.value) == "RuntimeError: Job 7_0 has not produced any output (state: CANCELLED)"


def test_submitit_is_left_as_it_was(asked, tmp_path):
    kind = sys.modules["submitit.core.core"].Job
    before = kind.results
    with pytest.raises(SweepStopped):
        launch(lambda *_: None, {1: ["seed=1"]}, [], tmp_path)
    assert kind.results is before
