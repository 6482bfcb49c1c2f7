"""A sweep tells the truth whatever starts its jobs, goes on where it stopped, and may search."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job, setup_globals
from hydra.plugins.launcher import Launcher

from fedapp.cli import run as running
from fedapp.cli.main import main
from fedapp.cli.run import Outcome
from fedapp.cli.sweeps.jobs import read_jobs
from fedapp.cli.sweeps.search import best_of
from fedapp.config.build import ConfigError
from fedapp.core.files import ROOT
from fedapp.core.status import holding
from fedapp.planning import job as job_planning
from fedapp.records.folder import RunFolder
from tests.federation import TOY

SCORES = {"seed=1": 0.25, "seed=2": 0.75, "seed=3": 0.5}
started: list[str] = []
"""Which runs were started, by what tells them apart."""


class ForkLauncher(Launcher):
    """Each job in a process of its own, as joblib's and others' are."""

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        return [self._job(initial_job_idx + i, words) for i, words in enumerate(job_overrides)]

    def _job(self, number, words):
        setup_globals()
        config = self.context.config_loader.load_sweep_config(self.config, list(words))
        config.hydra.job.num = config.hydra.job.id = number
        results = multiprocessing.get_context("fork").SimpleQueue()

        def work():
            results.put(
                run_job(
                    hydra_context=self.context,
                    task_function=self.task,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            )

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        if results.empty():
            raise RuntimeError("a worker was killed")
        return results.get()


@pytest.fixture
def plugins(monkeypatch):
    """The launcher above, as if it were installed."""
    module, parent = ModuleType("hydra_plugins.tried"), sys.modules.get("hydra_plugins")
    if parent is None:
        parent = ModuleType("hydra_plugins")
        parent.__path__ = []
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(parent, "tried", module, raising=False)
    monkeypatch.setattr(ForkLauncher, "__module__", module.__name__)
    module.ForkLauncher = ForkLauncher
    Plugins.instance().register(ForkLauncher)
    node = {"_target_": f"{module.__name__}.ForkLauncher"}
    ConfigStore.instance().store(group="hydra/launcher", name="fork", node=node)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Runs that only leave a summary; ``faults`` says which seeds, or ranks, go wrong, and how.

    The validation score is that of the seed, or best at a step size of 0.3; bytes grow with the rank.
    """
    faults: dict[str, str] = {}
    started.clear()

    def run_once(words, stream, begun):
        given = dict(word.split("=", 1) for word in words)
        name = next(f"{key}={given[key]}" for key in ("adapter.size", "seed") if key in given)
        started.append(name)
        fault = faults.get(name)
        if fault == "killed":
            os._exit(9)
        if fault == "interrupted":
            raise KeyboardInterrupt
        if fault == "bug":
            raise RuntimeError("an index\nis out of range")
        if fault:
            return Outcome(1, fault)
        folder = Path(tempfile.mkdtemp(dir=tmp_path, prefix="run-"))
        score = SCORES.get(name, 1 - abs(float(given.get("train.learning_rate", 0)) - 0.3))
        begun(folder)
        sent = 100 * int(given.get("adapter.size", 1))
        final = {"mean-validation-score": score}
        total = {"sent-bytes": sent, "received-bytes": sent, "cpu-seconds": 1.0}
        (folder / "summary.json").write_text(json.dumps({"best-round": None, "final": final, "total": total}))
        return Outcome(0, "", folder)

    monkeypatch.setattr(running, "run_once", run_once)
    monkeypatch.setattr(running, "look_ahead", lambda config, **_: [])
    return faults


def swept(capsys, tmp_path: Path, *words: str) -> tuple[int, str, list[str]]:
    """Exit code, standard output and the lines of standard error."""
    code = main(["run", "-m", *TOY, f"runs_dir={tmp_path / 'runs'}", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


@pytest.mark.parametrize("launcher", ["basic", "fork"])
def test_every_job_is_counted_whatever_process_it_ran_in(capsys, tmp_path, plugins, runs, launcher):
    runs["seed=2"] = "no data"
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3", f"hydra/launcher={launcher}")
    assert code == 1, err
    assert "2 of 3 runs complete\n" in out
    assert err[-1] == "fedapp: error: 1 of 3 runs failed: [2] seed=2"
    (folder,) = (tmp_path / "runs").iterdir()
    jobs = [json.loads((folder / "jobs" / f"{number}.json").read_text()) for number in (1, 2, 3)]
    assert [job["status"] for job in jobs] == ["completed", "failed", "completed"]
    assert jobs[1]["reason"] == "no data"


def test_a_job_that_crashes_takes_no_other_jobs_place(capsys, tmp_path, runs):
    runs.update({"seed=1": "bug", "seed=3": "no data"})
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3")
    assert code == 1, err
    assert out.splitlines()[1:4] == ["[1] seed=1", "[2] seed=2", "[3] seed=3"]
    assert err == [
        "fedapp: error: [1] RuntimeError: an index is out of range",
        "fedapp: error: [3] no data",
        "fedapp: error: 2 of 3 runs failed: [1] seed=1, [3] seed=3",
    ]
    (record,) = tmp_path.glob("runs/*/jobs/1.json")
    assert "run_once" in json.loads(record.read_text())["trace"]


def test_a_launcher_that_gives_up_is_told_with_the_jobs_it_left(capsys, tmp_path, plugins, runs):
    runs["seed=2"] = "killed"
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3", "hydra/launcher=fork")
    assert code == 1, err
    assert "1 of 3 runs complete\n" in out
    assert err == [
        "fedapp: error: 1 of 3 runs failed: [2] seed=2; not started: 3; RuntimeError: a worker was killed",
    ]


def test_a_sweep_goes_on_with_what_is_missing(capsys, tmp_path, runs):
    runs.update({"seed=2": "no data"})
    assert swept(capsys, tmp_path, "seed=1,2,3")[0] == 1
    (folder,) = (tmp_path / "runs").iterdir()
    runs.clear()
    started.clear()
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3", "sweep.resume=true")
    assert (code, err, started) == (0, [], ["seed=2"])
    assert out.splitlines()[0] == f"sweep folder: {folder}, 2 of 3 runs complete"
    assert out.splitlines()[-1] == "3 of 3 runs complete"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name]


def test_a_sweep_of_other_settings_is_not_mistaken_for_the_one_to_go_on(capsys, tmp_path, runs):
    swept(capsys, tmp_path, "seed=1,2")
    started.clear()
    assert swept(capsys, tmp_path, "seed=1,2", "num_rounds=7", "sweep.resume=true")[0] == 0
    assert started == ["seed=1", "seed=2"]
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_an_interrupted_sweep_goes_on_by_its_folder_alone(capsys, tmp_path, runs):
    runs["seed=2"] = "interrupted"
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3")
    assert (code, err) == (130, ["fedapp: error: interrupted"])
    (folder,) = (tmp_path / "runs").iterdir()
    assert out.splitlines()[-2:] == [
        "1 of 3 runs complete",
        f"to go on: fedapp run --multirun sweep.resume={folder}",
    ]
    runs.clear()
    started.clear()
    assert main(["run", "-m", f"sweep.resume={folder}"]) == 0
    assert started == ["seed=2", "seed=3"]
    assert capsys.readouterr().out.endswith("3 of 3 runs complete\n")
    assert main(["run", "-m", f"sweep.resume={folder}", "seed=4,5"]) == 2
    assert "is a sweep of" in capsys.readouterr().err


def stopped_once(monkeypatch, after_round: int) -> None:
    """The next run ends as by Ctrl-C once this round is kept."""
    keep = RunFolder.keep

    def stop(self, state):
        keep(self, state)
        if state.facts["round"] == after_round:
            monkeypatch.setattr(RunFolder, "keep", keep)
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "keep", stop)


def stopped_sweep(capsys, tmp_path, monkeypatch, *words: str, after_round: int):
    """The folder of a sweep that was stopped in its first run, and that run's record."""
    stopped_once(monkeypatch, after_round)
    code, _, err = swept(capsys, tmp_path, *words)
    assert (code, err[-1]) == (130, "fedapp: error: interrupted")
    (folder,) = (tmp_path / "runs").iterdir()
    (begun,) = read_jobs(folder)
    assert begun.status == "failed"
    return folder, begun


def test_an_unfinished_run_goes_on_from_its_checkpoint(capsys, tmp_path, monkeypatch):
    words = ("engine=local", "num_rounds=3", "seed=1,2")
    folder, begun = stopped_sweep(capsys, tmp_path, monkeypatch, *words, after_round=2)
    code, out, err = swept(capsys, tmp_path, *words, "sweep.resume=true")
    assert code == 0, err
    assert f"seed=1, goes on in {Path(begun.run_dir).name}\n" in out
    assert ", goes on after round 2\n" in out
    first, second = read_jobs(folder)
    assert (first.run_dir, first.status, second.status) == (begun.run_dir, "completed", "completed")
    assert len(list(folder.glob("*/run.json"))) == 2
    # Nothing of it tells that it was stopped.
    whole = swept(capsys, tmp_path / "whole", "engine=local", "num_rounds=3", "seed=1,2")
    assert whole[0] == 0
    (other,) = (tmp_path / "whole" / "runs").iterdir()
    for mine, theirs in zip((first, second), read_jobs(other), strict=True):
        rows = [(Path(job.run_dir) / "metrics.jsonl").read_text() for job in (mine, theirs)]
        assert rows[0] == rows[1]


def test_a_run_that_cannot_go_on_begins_again(capsys, tmp_path, monkeypatch):
    words = ("engine=local", "num_rounds=2", "seed=1,2")
    folder, begun = stopped_sweep(capsys, tmp_path, monkeypatch, *words, after_round=1)
    # As a later version of the package would compose it: another default.
    refuse = "resume=x cannot go on with other settings: split.val_share was 0.1, is 0.2"
    monkeypatch.setattr(job_planning, "find_resumable", Mock(side_effect=ConfigError(refuse)))
    code, _, err = swept(capsys, tmp_path, *words, "sweep.resume=true")
    assert code == 0, err
    assert f"fedapp: warning: [1] begins again: {refuse}" in err
    assert read_jobs(folder)[0].run_dir != begun.run_dir
    assert len(list(folder.glob("*/summary.json"))) == 2


def test_a_run_that_an_orphan_still_works_on_is_not_run_twice(capsys, tmp_path, monkeypatch):
    words = ("engine=local", "num_rounds=2", "seed=1,2")
    folder, begun = stopped_sweep(capsys, tmp_path, monkeypatch, *words, after_round=1)
    with holding(Path(begun.run_dir)):
        code, _, err = swept(capsys, tmp_path, *words, "sweep.resume=true")
    assert code == 1
    assert "still at work on this run" in err[0]
    assert err[-1] == "fedapp: error: 1 of 2 runs failed: [1] seed=1"
    assert len(list(folder.glob("*/run.json"))) == 2


def test_a_run_that_was_removed_is_run_again(capsys, tmp_path, runs):
    swept(capsys, tmp_path, "seed=1,2")
    (record,) = tmp_path.glob("runs/*/jobs/2.json")
    (Path(json.loads(record.read_text())["run-dir"]) / "summary.json").unlink()
    started.clear()
    assert swept(capsys, tmp_path, "seed=1,2", "sweep.resume=true")[0] == 0
    assert started == ["seed=2"]


def test_a_sweep_that_somebody_works_on_is_left_to_them(capsys, tmp_path, runs):
    swept(capsys, tmp_path, "seed=1,2")
    (folder,) = (tmp_path / "runs").iterdir()
    with holding(folder):
        code, _, err = swept(capsys, tmp_path, "seed=1,2", "sweep.resume=true")
    assert (code, err) == (2, [f"fedapp: error: {folder}: another process works on this sweep"])


OBJECTIVES = ("validation-score", "payload-bytes")
SEARCH = ("sweep=search", "sweep.num_trials=12", "score.splits=[validation,test]")
STEP = "train.learning_rate=interval(0.1,1.0)"


def test_a_search_says_what_was_best(capsys, tmp_path, runs):
    words = ("sweep=pareto", SEARCH[-1], "adapter.size=1,2", "sweep.num_trials=2", "sweep.at_once=2")
    code, out, err = swept(capsys, tmp_path, *words, STEP)
    assert (code, err) == (0, [])
    jobs = read_jobs(next((tmp_path / "runs").iterdir()))
    lines = out.split("no run is better by all of validation-score, payload-bytes than:\n")[1].splitlines()
    best = [f"[{job.number}] {' '.join(job.overrides[-2:])}" for job, _ in best_of(jobs, OBJECTIVES)]
    assert [line.partition(" in ")[2] for line in lines] == best
    assert lines[0].startswith("  validation-score ")
    assert " B in [" in lines[0]


def test_a_search_that_was_stopped_goes_on(capsys, tmp_path, runs):
    runs["seed=7"] = "no data"
    assert swept(capsys, tmp_path, *SEARCH, "sweep.num_trials=2", STEP, "seed=7")[0] == 1
    (folder,) = (tmp_path / "runs").iterdir()
    words = [json.loads(path.read_text())["overrides"] for path in sorted(folder.glob("jobs/*.json"))]
    runs.clear()
    assert main(["run", "-m", f"sweep.resume={folder}", "sweep.num_trials=3"]) == 0
    assert "3 of 3 runs complete" in capsys.readouterr().out
    again = [json.loads(path.read_text())["overrides"] for path in sorted(folder.glob("jobs/*.json"))]
    assert again[:2] == words  # what failed is tried again
    assert len({tuple(one) for one in again}) == 3  # and nothing is drawn twice
    started.clear()
    assert main(["run", "-m", f"sweep.resume={folder}"]) == 0
    assert started == []


def test_the_folder_above_a_sweep_is_told_from_it(capsys, tmp_path, runs):
    assert swept(capsys, tmp_path, "seed=1,2")[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    code, _, err = swept(capsys, tmp_path, f"sweep.resume={folder.parent}")
    assert code == 2
    assert err[-1].endswith(f"it has no sweep.json; the latest in it is {folder}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([STEP, "score.splits=[test]"], "score.splits=['test'] gives a search nothing to choose by"),
        ([STEP, "split.val_share=0"], "split.val_share=0 leaves no validation row, by which a search would"),
        ([], "a search has nothing to draw: give KEY=A,B or 'KEY=interval(A,B)'"),
        (["seed=1,2"], "seed cannot be searched for"),
        ([STEP, "sweep.objectives=[loss]"], "sweep.objectives=['loss'] must be a list of validation-score"),
        ([STEP, "sweep.num_trials=-1"], "sweep.num_trials=-1 must be"),
        ([STEP, "sweep.trials=3"], "sweep.trials is not a setting; did you mean num_trials?"),
        (["train.learning_rate=tag(log,interval(0,1))"], "above 0 with log"),
        ([STEP, "sweep=serach"], "sweep=serach does not exist; did you mean search?"),
        ([STEP, "sweep.resume=maybe"], "is not the folder of a sweep"),
        (["hydra/sweeper=optuna"], "hydra/sweeper=optuna has no effect: write sweep=search (Optuna)"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(capsys, tmp_path, runs, words, said):
    code, out, err = swept(capsys, tmp_path, *SEARCH, *words)
    assert (code, out, len(err)) == (2, "", 1)
    assert said in err[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_sweep_of_joblibs_workers_goes_on(tmp_path):
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "num_rounds=1"]
    # The second fails in its worker: its folder cannot be made.
    command = [sys.executable, "-m", "fedapp", "run", "-m", *TOY, f"runs_dir={tmp_path}", *words]
    command += ["run_dir=null,/dev/null/x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "1 of 2 runs complete"
    assert done.stderr.splitlines()[-1].startswith("fedapp: error: 1 of 2 runs failed: [2] run_dir=")
    (folder,) = tmp_path.iterdir()
    before = sorted(path.name for path in folder.iterdir())
    # As a process that was killed leaves it: the first one's record says that it runs.
    record = folder / "jobs" / "1.json"
    record.write_text(record.read_text().replace("completed", "running"))
    done = subprocess.run(
        [*command[:5], f"sweep.resume={folder}"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "1 of 2 runs complete"
    assert len(sorted(path.name for path in folder.iterdir())) == len(before) + 1
