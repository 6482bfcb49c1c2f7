"""Settings without effect are refused in one line, or named where they do no harm."""

import json

import pytest

from fedapp.cli.main import main
from fedapp.config.build import ConfigError
from fedapp.config.compose import load_config
from fedapp.config.effect import idle_settings


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+foo=1", "foo is not a setting"),
        ("++num_round=3", "num_round is not a setting; did you mean num_rounds"),
        ("+foo.bar=1", "foo is not a setting"),
        ("+method.poool=true", "method.poool is not a setting, nothing reads it"),
        ("+method.about.fingerprin=x", "method.about.fingerprin is not a setting"),
        ("+adapter.recipe.learning_rat=1", "did you mean learning_rate"),
        ("+hostile.scale=3", "hostile.scale is not a setting"),
        ("+model.recipe.learning_rate.nobody=1", "model.recipe.learning_rate.nobody is not a setting"),
        ("+benchmark.recipe.val_shar=0.5", "did you mean val_share"),
        ("hydra.sweep.dir=x", "hydra.sweep.dir=x has no effect on a single run"),
        ("hydra/launcher=basic", "has no effect on a single run"),
        ("+hydra.foo=1", "has no effect on a single run"),
        ('by_client=["++adapter.recipe.learning_rat=1"]', "adapter.recipe.learning_rat is not a setting"),
        ("save_predictions=perhaps", "save_predictions='perhaps' must be true or false"),
        ("save_adapters=1", "save_adapters=1 must be true or false"),
    ],
)
def test_a_setting_that_nobody_reads_is_refused(override, said):
    with pytest.raises(ConfigError) as caught:
        load_config([override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("++num_rounds=2", "num_rounds", 2),
        ("+method.proximal=0.1", "train.proximal", 0.1),  # read by an interpolation
        ("+adapter.recipe.batch_size=3", "train.batch_size", 3),
        ("+method.routine.x=1", "method.routine.x", 1),  # a constructor judges it
        ("+train.x=1", "train.x", 1),
    ],
)
def test_an_added_key_that_somebody_reads_or_judges_is_left_alone(override, place, value):
    found = load_config([override])
    for part in place.split("."):
        found = found[part]
    assert found == value


def test_a_key_of_a_place_that_an_interpolation_names_by_another_is_read():
    words = ["model=toy", "adapter=context", "+model.recipe.learning_rate.context=0.25"]
    assert load_config(words)["train"]["learning_rate"] == 0.25


def test_a_key_that_an_experiment_misspells_is_refused(tmp_path, monkeypatch):
    import shutil

    from fedapp.core import files

    conf = shutil.copytree(files.CONF, tmp_path / "conf")
    (conf / "experiment" / "mine.yaml").write_text("# @package _global_\nnum_round: 3\n")
    monkeypatch.setattr(files, "CONF", conf)
    with pytest.raises(ConfigError, match="num_round is not a setting; did you mean num_rounds"):
        load_config(["experiment=mine"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], None),
        (["train.learning_rate=0.1"], None),
        (["method=zero_shot", "train.learning_rate=0.1"], "adapter=zero_shot takes no training step"),
        (["method=zero_shot", "train.max_length=64"], None),  # cuts the prompts it answers
        (["evaluate_every=9", "num_rounds=3"], "evaluate_every=9 without effect"),
        (["evaluate_every=3", "num_rounds=3"], None),
        (
            ["score.splits=[validation,test]", "split.val_share=0"],
            "split.val_share=0 leaves no validation row",
        ),
        (["split.val_share=0"], None),
    ],
)
def test_a_setting_that_this_run_has_no_use_for_is_named(words, said):
    found = idle_settings(words, load_config(words))
    assert said in found[0] if said else found == []


def test_a_choice_that_only_sweeps_asks_for_multirun(capsys, tmp_path):
    assert main(["run", "experiment=aggregator", f"runs_dir={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "fedapp: error: experiment=aggregator sweeps method=fedavg,fedreft_mean,fedreft: use"
    )
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (
            "hydra.sweep.dir=x",
            "hydra.sweep.dir=x has no effect: the runs of a sweep go into a new folder below",
        ),
        ("hydra.run.dir=x", "has no effect"),
        ("hydra.sweeper.params.seed=1", "write what is swept as KEY=A,B"),
        ("hydra.job.chdir=true", "has no effect"),
        ("hydra/sweeper=optuna", "hydra/sweeper=optuna has no effect: write sweep=search (Optuna)"),
        (
            "hydra/launcher=nowhere",
            "hydra/launcher=nowhere is not there (pip install hydra-nowhere-launcher)",
        ),
        ("num_rounds=interval(1,3)", "num_rounds=interval(1,3) names no values"),
    ],
)
def test_a_sweep_refuses_what_it_would_not_heed(capsys, tmp_path, word, said):
    assert main(["run", "-m", word, "seed=1,2", f"runs_dir={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_budget_of_an_experiment_is_that_of_what_it_sweeps(capsys):
    toy = ["model=toy", "adapter=toy", "benchmark=toy"]
    assert main(["budget", "experiment=aggregator", *toy, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["method"] for row in rows] == ["fedavg", "fedreft_mean", "fedreft"]
    assert main(["budget", "hydra.sweep.dir=x", *toy]) == 2
    assert "hydra.sweep.dir=x has no effect" in capsys.readouterr().err
