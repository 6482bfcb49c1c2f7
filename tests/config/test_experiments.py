"""Every file of conf/experiment: it composes, its sweep can be run, its commands are true, and it starts."""

import json
import re
import shlex

import pytest

from fedapp.config import sweep
from fedapp.config.build import ConfigError
from fedapp.config.choices import groups
from fedapp.config.compose import load_config
from fedapp.core.files import CONF
from fedapp.planning.preflight import check
from tests import federation
from tests.federation import run_toy

EXPERIMENTS = groups()["experiment"]
# Two of them stand for the others by default: one with its own data and model, one with hostile clients.
STARTED = ["glue", "robustness"]
LATER = [name for name in EXPERIMENTS if name not in STARTED]
SMALL = ["num_rounds=1", "train.max_steps=1", "split.max_train=4", "split.max_test=4", "save_adapters=false"]
SCORES = [f"score.{moment}=false" for moment in ("base", "before", "after")]


def commands(name):
    """The commands that a file's comments give."""
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    return [shlex.split(line) for line in re.findall(r"^#.*?\bfedapp run (.*)$", text, re.MULTILINE)]


def runs_of(words):
    """The overrides of each run of a command, its experiment's sweep included."""
    words = [word for word in words if word != "--multirun"]
    words = [*sweep.of_experiment(words), *words]
    return sweep.combinations(words)


@pytest.fixture
def local_data(tmp_path):
    """Overrides that put an experiment whose data are not in the repository on a few rows."""
    folder = tmp_path / "glue" / "sst2"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [json.dumps({"sentence": f"film {i} was fine", "label": i % 2, "idx": i}) for i in range(90)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    # Words that the small model can write; it is refused the benchmark's own.
    words = "benchmark.labels=[bad,good]"
    return {"glue": [f"benchmark.data_dir={tmp_path / 'glue'}", "model=embedded", words]}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_command_in_the_comments_composes(name):
    given = commands(name)
    assert len(given) >= 2  # the one that runs it here, and the one at the paper's size
    for words in given:
        assert f"experiment={name}" in words
        assert load_config(runs_of(words)[-1])["num_clients"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_the_sweep_can_be_built(name, local_data):
    jobs = runs_of([f"experiment={name}", *local_data.get(name, [])])
    assert len(jobs) > 1
    for overrides in jobs:
        check(load_config(overrides), with_model=False)


@pytest.mark.parametrize("name", [*STARTED, *(pytest.param(n, marks=pytest.mark.slow) for n in LATER)])
def test_every_experiment_starts(name, local_data, tmp_path, monkeypatch):
    monkeypatch.setattr(federation, "TOY", ["engine=local"])
    settings = [f"experiment={name}", *local_data.get(name, []), *SMALL, *SCORES]
    run = run_toy(tmp_path / "run", *settings, num_nodes=5)
    assert run.json("run")["status"] == "completed"
    config = load_config(settings)
    scored = config["score"]["splits"][-1]  # a search scores validation rows alone
    finals = [row for row in run.rows("metrics") if row["model"] == "final" and row["split"] == scored]
    assert len(finals) == config["num_clients"]


def test_what_is_given_on_the_command_line_replaces_the_experiments_sweep():
    assert len(runs_of(["experiment=robustness"])) == 20
    added = sweep.of_experiment(["experiment=robustness", "++method=local"])
    assert added == ["hostile=honest,noise,sign_flip,stale"]
    jobs = runs_of(["experiment=robustness", "method=local", "hostile=none,stale"])
    assert [sorted(job) for job in jobs] == [
        ["experiment=robustness", f"hostile={kind}", "method=local"] for kind in ("none", "stale")
    ]


def test_without_an_experiment_nothing_is_added():
    assert sweep.of_experiment(["seed=1,2"]) == []


def test_several_experiments_at_once_are_refused():
    with pytest.raises(
        ConfigError, match=r"^experiment=rank,tie: every experiment sweeps settings of its own"
    ):
        sweep.of_experiment(["experiment=rank,tie"])
    with pytest.raises(ConfigError, match=r"^experiment=rnk does not exist; did you mean rank"):
        sweep.of_experiment(["experiment=rnk"])
