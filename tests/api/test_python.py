"""fedapp from Python: results in the place of an exit code, exceptions in the place of lines."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
import yaml

import fedapp
from fedapp.api import running
from fedapp.cli.run import Outcome
from fedapp.core.files import ROOT
from fedapp.core.status import write_status
from tests.federation import TOY

SETTINGS = [*TOY, "num_rounds=2", "num_clients=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(folder):
    return fedapp.run([*SETTINGS, f"runs_dir={folder}"], progress=False)


def test_a_run_is_an_object_with_its_results(done, folder):
    assert (done.status, done.reason, done.path.parent) == ("completed", "", folder)
    assert done.config["num_rounds"] == 2
    assert done.facts["seed"] == 1
    assert list(done.clients["final-score"]) == [one["final-score"] for one in done.summary["clients"]]
    finals = done.metrics.query("model == 'final' and split == 'test'")
    assert list(finals["accuracy"]) == list(done.clients["final-score"])
    up = done.traffic.query("direction == 'up'").groupby("client-id")["payload-bytes"].sum()
    assert list(up) == list(done.clients["sent-bytes"])
    assert set(done.events["event"]) >= {"start", "reply", "round", "end"}
    assert repr(done) == f"Run('{done.path}', completed)"
    assert "<table" in done._repr_html_()


def test_a_kept_adapter_is_named_arrays(done):
    own, shared = done.adapter(0), done.adapter()
    assert own.path.name == "client-0"
    assert own.about["seed"] == 1
    assert {name: array.shape for name, array in own.arrays.items()} == {
        name: array.shape for name, array in shared.arrays.items()
    }
    with pytest.raises(ValueError, match=r"keeps no adapter of 9; it has: 0, 1, 2, shared"):
        done.adapter(9)


def test_a_folder_is_loaded_as_the_run_that_it_holds(done, tmp_path):
    assert fedapp.load(str(done.path)) == done
    with pytest.raises(ValueError, match=r"holds no run: it has no run\.json"):
        fedapp.load(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        fedapp.load(tmp_path / "nowhere")


def test_a_run_that_is_not_complete_says_how_it_stands(tmp_path):
    write_status(tmp_path, {"status": "failed", "reason": "no disk"})
    (tmp_path / "metrics.jsonl").write_text('{"server-round": 1}\n{"server-rou')
    run = fedapp.load(tmp_path)
    assert (run.status, run.reason) == ("failed", "no disk")
    assert run.metrics.to_dict("records") == [{"server-round": 1}]
    assert run.traffic.empty
    with pytest.raises(ValueError, match=r"has no summary\.json: the run is failed, no disk"):
        _ = run.summary
    assert "no disk" in run._repr_html_()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["metod=fedreft"], "metod is not a setting; did you mean method"),
        (["num_rounds=1,2"], "num_rounds=1,2 gives several values"),
        (["experiment=rank"], "experiment=rank sweeps adapter.rank=1,2,4,8,16,32"),
        (["sweep=search"], "sweep=search has no effect on a single run"),
        ("num_rounds=1", "must be a list of texts"),
        ([3], "must be a list of texts"),
    ],
)
def test_what_cannot_be_used_is_an_exception_with_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fedapp.ConfigError) as error:
        fedapp.run(words, progress=False)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_is_an_exception_that_knows_its_folder(tmp_path):
    blocked = [*SETTINGS, f"runs_dir={tmp_path}", "round_timeout=0.001", "min_replies=3"]
    with pytest.raises(fedapp.RunFailed) as error:
        fedapp.run(blocked, progress=False)
    assert "\n" not in str(error.value)
    assert fedapp.load(error.value.path).status == "failed"


def test_progress_goes_to_standard_output_or_nowhere(tmp_path, capsys):
    fedapp.run([*SETTINGS, f"runs_dir={tmp_path}", "num_rounds=1"], progress=False)
    assert capsys.readouterr().out == ""
    fedapp.run([*SETTINGS, f"runs_dir={tmp_path}", "num_rounds=1"])
    assert "round 1/1: " in capsys.readouterr().out


def test_a_run_works_in_a_thread(tmp_path):
    found = []
    words = [*SETTINGS, f"runs_dir={tmp_path}", "num_rounds=1"]
    thread = threading.Thread(target=lambda: found.append(fedapp.run(words, progress=False)))
    thread.start()
    thread.join()
    assert [run.status for run in found] == ["completed"]


def test_runs_of_several_threads_follow_one_another(monkeypatch, tmp_path):
    at_work, most = [], []

    def run_once(words, stream):
        at_work.append(words)
        time.sleep(0.05)
        most.append(len(at_work))
        at_work.pop()
        return Outcome(0, "", tmp_path)

    monkeypatch.setattr(running, "run_once", run_once)
    threads = [threading.Thread(target=fedapp.run, kwargs={"progress": False}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]


def test_a_sweep_is_a_table_of_jobs_and_its_runs(tmp_path):
    words = [*SETTINGS, f"runs_dir={tmp_path}", "num_rounds=1", "method=fedavg,fedit"]
    swept = fedapp.sweep(words, progress=False)
    assert list(swept.jobs["method"]) == ["fedavg", "fedit"]
    assert list(swept.jobs["status"]) == ["completed", "completed"]
    assert [run.config["method"]["about"]["name"] for run in swept.runs] == ["fedavg", "fedit"]
    assert fedapp.sweep(words, resume=True, progress=False).runs == swept.runs
    frame = fedapp.compare(swept.path)
    assert list(frame["path"]) == sorted(str(run.path) for run in swept.runs)
    assert fedapp.compare(swept.runs)["mean"].between(0, 1).all()


def test_a_sweep_with_a_failed_run_is_an_exception_that_has_the_others(tmp_path):
    words = [*SETTINGS, f"runs_dir={tmp_path}", "num_rounds=1", "run_dir=null,/dev/null/x"]
    with pytest.raises(fedapp.SweepFailed, match=r"^1 of 2 runs failed: \[2\] run_dir=/dev/null/x$") as error:
        fedapp.sweep(words, progress=False)
    assert len(error.value.sweep.runs) == 1
    assert "cannot be made" in error.value.sweep.jobs["reason"][2]


def test_comparing_nothing_says_so(tmp_path):
    with pytest.raises(ValueError, match="no finished run in"):
        fedapp.compare(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        fedapp.compare([tmp_path / "nowhere"])


def test_importing_fedapp_imports_nothing_else():
    code = "import sys, fedapp; print(sorted(name for name in sys.modules if name.startswith('fedapp')))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "['fedapp']\n"
    assert yaml.safe_load(said.stdout) == ["fedapp"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fedapp.nothing
