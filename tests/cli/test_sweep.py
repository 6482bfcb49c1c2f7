"""A sweep tells the truth whatever starts its jobs, and an optimiser is given the validation score."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

from fedapp.cli import run as running
from fedapp.cli.main import main
from fedapp.cli.run import Outcome
from fedapp.core.files import ROOT
from tests.federation import TOY

SCORES = {"seed=1": 0.25, "seed=2": 0.75, "seed=3": 0.5}
told: dict[str, object] = {}
"""What the sweeper below was given."""


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


class Climber(Sweeper):
    """Tries seeds 1 to 3 and notes what it is told of them, as an optimiser would."""

    def __init__(self, direction, forgiving):
        told.update(direction=direction, scores=[])
        self.forgiving = forgiving

    def setup(self, *, hydra_context, task_function, config):
        plugins = Plugins.instance()
        self.launcher = plugins.instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        fixed = [word for word in arguments if not word.startswith("seed=")]
        for number in range(3):
            (job,) = self.launcher.launch([[*fixed, f"seed={number + 1}"]], initial_job_idx=number)
            try:
                told["scores"].append(job.return_value)
            except Exception as error:
                told["scores"].append(type(error).__name__)
                if not self.forgiving:
                    raise


@pytest.fixture
def plugins(monkeypatch):
    """The launcher and the sweeper above, as if they were installed."""
    module, parent = ModuleType("hydra_plugins.tried"), sys.modules.get("hydra_plugins")
    if parent is None:
        parent = ModuleType("hydra_plugins")
        parent.__path__ = []
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(parent, "tried", module, raising=False)
    node = {"climber": {"direction": "minimize", "forgiving": True}, "fork": {}}
    for kind, name, group in ((ForkLauncher, "fork", "launcher"), (Climber, "climber", "sweeper")):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
        Plugins.instance().register(kind)
        target = f"{module.__name__}.{kind.__name__}"
        ConfigStore.instance().store(
            group=f"hydra/{group}", name=name, node={"_target_": target, **node[name]}
        )


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Runs that only leave a summary; ``faults`` says which seeds go wrong, and how."""
    faults: dict[str, str] = {}

    def run_once(words, stream):
        seed = next(word for word in words if word.startswith("seed="))
        fault = faults.get(seed)
        if fault == "killed":
            os._exit(9)
        if fault == "bug":
            raise RuntimeError("an index\nis out of range")
        if fault:
            return Outcome(1, fault)
        folder = tmp_path / seed
        folder.mkdir(exist_ok=True)
        final = {"mean-validation-score": SCORES[seed]}
        (folder / "summary.json").write_text(json.dumps({"best-round": None, "final": final}))
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
    assert err[-1] == "fedapp: error: 1 of 3 runs failed: 2"
    (folder,) = (tmp_path / "runs").iterdir()
    jobs = [json.loads((folder / "jobs" / f"{number}.json").read_text()) for number in (1, 2, 3)]
    assert [job["status"] for job in jobs] == ["completed", "failed", "completed"]
    assert jobs[1]["reason"] == "no data"


def test_a_job_that_crashes_takes_no_other_jobs_place(capsys, tmp_path, runs):
    runs.update({"seed=1": "bug", "seed=3": "no data"})
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3")
    assert code == 1, err
    assert out.splitlines()[:3] == ["[1] seed=1", "[2] seed=2", "[3] seed=3"]
    assert err == [
        "fedapp: error: [1] RuntimeError: an index is out of range",
        "fedapp: error: [3] no data",
        "fedapp: error: 2 of 3 runs failed: 1, 3",
    ]
    (record,) = tmp_path.glob("runs/*/jobs/1.json")
    assert "run_once" in json.loads(record.read_text())["trace"]


def test_a_launcher_that_gives_up_is_told_with_the_jobs_it_left(capsys, tmp_path, plugins, runs):
    runs["seed=2"] = "killed"
    code, out, err = swept(capsys, tmp_path, "seed=1,2,3", "hydra/launcher=fork")
    assert code == 1, err
    assert "1 of 3 runs complete\n" in out
    assert err == [
        "fedapp: error: 1 of 3 runs failed: 2; not started: 3; RuntimeError: a worker was killed",
    ]


def test_an_optimiser_is_given_validation_scores_of_which_more_is_better(capsys, tmp_path, plugins, runs):
    words = ("hydra/sweeper=climber", "score.splits=[validation,test]")
    code, out, err = swept(capsys, tmp_path, *words)
    assert (code, err) == (0, [])
    assert told == {"direction": "maximize", "scores": [0.25, 0.75, 0.5]}
    assert "3 of 3 runs complete\nbest validation score: 75.0 in [2] " in out
    runs["seed=2"] = "no data"
    code, out, err = swept(capsys, tmp_path, *words, "hydra/launcher=fork")
    assert code == 1, err
    assert told["scores"] == [0.25, "JobFailed", 0.5]
    assert "2 of 3 runs complete\nbest validation score: 50.0 in [3] " in out
    assert err[-1] == "fedapp: error: 1 of 3 runs failed: 2"
    code, out, err = swept(capsys, tmp_path, *words, "hydra.sweeper.forgiving=false")
    assert code == 1, err
    assert "1 of 2 runs complete\n" in out
    assert "1 of 2 runs failed: 2; the sweeper gave up on a job without a validation score" in err[-1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("score.splits=[test]", "score.splits=['test'] gives an optimiser nothing to choose by"),
        ("hydra.sweeper.direction=minimize", "hydra.sweeper.direction must be maximize"),
        (
            "split.val_share=0",
            "split.val_share=0 leaves no validation row, by which an optimiser would choose",
        ),
    ],
)
def test_an_optimiser_that_would_choose_by_nothing_is_refused(capsys, tmp_path, plugins, runs, word, said):
    splits = [] if word.startswith("score") else ["score.splits=[validation,test]"]
    code, out, err = swept(capsys, tmp_path, "hydra/sweeper=climber", *splits, word)
    assert (code, out) == (2, "")
    assert said in err[0]
    assert len(err) == 1


@pytest.mark.slow
def test_joblibs_workers_are_counted(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    # The second fails in its worker: its folder cannot be made.
    words = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "num_rounds=1", "run_dir=null,/dev/null/x"]
    command = [sys.executable, "-m", "fedapp", "run", "-m", *TOY, f"runs_dir={tmp_path}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "1 of 2 runs complete"
    assert done.stderr.splitlines()[-1] == "fedapp: error: 1 of 2 runs failed: 2"


@pytest.mark.slow
def test_optuna_is_given_the_scores(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", "num_rounds=1"]
    words += ["score.splits=[validation,test]", "train.learning_rate=interval(0.001,0.1)"]
    command = [sys.executable, "-m", "fedapp", "run", "-m", *TOY, f"runs_dir={tmp_path}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs complete\nbest validation score: " in done.stdout
    (folder,) = tmp_path.iterdir()
    best = yaml.safe_load((folder / "optimization_results.yaml").read_text())["best_value"]
    scores = [json.loads(path.read_text())["validation-score"] for path in folder.glob("jobs/*.json")]
    assert best == max(scores)
