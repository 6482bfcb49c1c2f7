"""--cfg job and --dry-run show what would be run and write nothing; Hydra's other flags are answered."""

import pytest
import yaml

from fedapp.cli.main import main
from fedapp.config.compose import load_config
from tests.federation import TOY


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def test_cfg_job_prints_the_composed_config(capsys):
    assert main(["run", "--cfg", "job", *TOY, "num_rounds=7"]) == 0
    said = yaml.safe_load(capsys.readouterr().out)
    assert said == load_config([*TOY, "num_rounds=7"]).to_dict()
    assert said["num_rounds"] == 7


def test_a_dry_run_shows_config_bytes_and_checks(capsys):
    assert main(["run", "--dry-run", *TOY, "num_rounds=2", "evaluate_every=9"]) == 0
    captured = capsys.readouterr()
    config, _, budget = captured.out.partition("\n\n")
    assert yaml.safe_load(config)["num_rounds"] == 2
    assert "method=fedreft" in budget
    assert "up: a client,\\n" not in budget
    assert captured.out.endswith("checked; nothing was run, nothing was written\n")
    assert "evaluate_every=9 without effect" in captured.err


def test_a_dry_run_finds_what_the_run_would_fail_by(capsys):
    assert main(["run", "--dry-run", *TOY, "adapter.size=-1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "adapter.size=-1" in captured.err


def test_a_dry_sweep_lists_its_jobs(capsys):
    assert main(["run", "-m", "--dry-run", *TOY, "method=fedit,local", "seed=1,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "4 runs, 0 complete",
        "[1] method=fedit seed=1",
        "[2] method=fedit seed=2",
        "[3] method=local seed=1",
        "[4] method=local seed=2",
    ]
    search = ["sweep=search", "score.splits=[validation,test]", "train.learning_rate=interval(0.1,1.0)"]
    assert main(["run", "-m", "--dry-run", *TOY, *search]) == 0
    said = capsys.readouterr().out
    assert said.startswith("20 runs, 0 complete; draws train.learning_rate; goes by validation-score\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-cn", "mine"], "-cn is not used: server and clients compose the conf/ of their own"),
        (["--config-dir=/mine"], "--config-dir is not used: server and clients compose the conf/"),
        (["--info"], "--info is not used: fedapp run --dry-run shows"),
        (["-sc", "install=bash"], "-sc is not used: there is none"),
        (["--cfg", "hydra"], "--cfg hydra is not there: --cfg job prints the config"),
        (["--cfg", "job", "-m", "seed=1,2"], "leave out --multirun"),
        (["--cfg", "job", "sed=1"], "sed is not a setting"),
    ],
)
def test_other_flags_of_hydra_are_answered_in_one_line(capsys, words, said):
    try:
        code = main(["run", *words])
    except SystemExit as leave:
        code = leave.code
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
