"""Step sizes: the same grid for all, chosen on validation rows, kept in a file."""

import json

import pytest

from fedapp.cli.main import main
from fedapp.reporting.tuning import Choice, Trial, choose, read_choices, write_choices
from tests.federation import TOY

GRID = [0.1, 0.3]


def trial(word, step_size, score, seed=1):
    return Trial((word,), {"method": word}, seed, step_size, score)


def test_the_highest_mean_over_seeds_is_chosen_and_the_smaller_of_equals():
    scores = {0.1: (0.5, 0.7), 0.2: (0.9, 0.2), 0.3: (0.4, 0.8)}
    trials = [trial("a", size, both[seed - 1], seed) for size, both in scores.items() for seed in (2, 1)]
    (choice,) = choose(trials)
    assert choice.chosen == 0.1
    assert choice.seeds == (1, 2)
    assert choice.scores == {"0.1": [0.5, 0.7], "0.2": [0.9, 0.2], "0.3": [0.4, 0.8]}
    assert choice.at_edge
    (choice,) = choose([trial("a", size, score) for size, score in ((0.1, 0.2), (0.2, 0.3), (0.3, 0.1))])
    assert not choice.at_edge


@pytest.mark.parametrize(
    "extra",
    [[trial("b", 0.1, 0.5)], [trial("a", 0.1, 0.5, 2)], [trial("b", 0.1, 0.5), trial("b", 0.2, 0.5)]],
    ids=["fewer step sizes", "a seed more for one", "another grid"],
)
def test_unequal_trials_are_refused(extra):
    with pytest.raises(ValueError, match="not every configuration was tried with the same step sizes"):
        choose([trial("a", size, 0.5) for size in GRID] + extra)


def test_choices_are_kept_and_replaced_and_of_one_grid(tmp_path):
    path = tmp_path / "tuning" / "x.json"
    first, other = (Choice((word,), {}, {"0.1": [0.5], "0.3": [0.4]}, (1,), 0.1) for word in "ab")
    later = Choice(("a",), {}, {"0.1": [0.1], "0.3": [0.4]}, (1,), 0.3)
    write_choices(path, [first], {"git-sha": "x"})
    write_choices(path, [other, later], {"git-sha": "y"})
    assert read_choices(path) == [later, other]
    before = path.read_text()
    for unlike in (
        Choice(("c",), {}, {"0.1": [0.5]}, (1,), 0.1),
        Choice(("c",), {}, {"0.1": [0.5, 0.5], "0.3": [0.4, 0.4]}, (1, 2), 0.1),
    ):
        with pytest.raises(ValueError, match="holds choices from another grid or number of seeds"):
            write_choices(path, [unlike], {})
    assert path.read_text() == before


def test_a_federation_is_tuned_by_validation_rows_alone(tmp_path, capsys):
    to = tmp_path / "x.json"
    words = [
        *TOY,
        "num_rounds=1",
        "method=fedavg,local",
        "train.learning_rate=0.1,0.3",
        "score.splits=[test]",
    ]
    assert main(["tune", *words, f"runs_dir={tmp_path / 'runs'}", "--to", str(to)]) == 0
    output = capsys.readouterr().out
    assert "method=fedavg" in output
    assert f"kept in {to}" in output
    choices = read_choices(to)
    assert [choice.names["method"] for choice in choices] == ["fedavg", "local"]
    assert all(list(choice.scores) == ["0.1", "0.3"] for choice in choices)
    assert str(tmp_path) not in to.read_text()
    files = sorted((tmp_path / "runs").rglob("metrics.jsonl"))
    assert len(files) == 4
    for file in files:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert {row["split"] for row in rows} <= {"train", "validation"}
    by_run = {}
    for file in (tmp_path / "runs").rglob("summary.json"):
        about = json.loads((file.parent / "run.json").read_text())["overrides"]
        by_run["method=local" in about, "train.learning_rate=0.3" in about] = json.loads(file.read_text())
    for choice in choices:
        for size, (score,) in choice.scores.items():
            key = choice.names["method"] == "local", size == "0.3"
            assert by_run[key]["final"]["mean-validation-score"] == score


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=rank"], "experiment=rank: tuning is an experiment of its own"),
        (["split.val_share=0"], "split.val_share=0 leaves no validation row, by which step sizes are chosen"),
        (["method=fedit,"], "method=fedit,"),
        (["train.learning_rate=high"], "learning_rate"),
    ],
)
def test_trials_that_cannot_be_configured_are_one_line_and_leave_nothing(tmp_path, capsys, words, said):
    to, runs = tmp_path / "x.json", tmp_path / "runs"
    assert main(["tune", *TOY, *words, f"runs_dir={runs}", "--to", str(to)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_something_else_is_named_before_anything_runs(tmp_path, capsys):
    to = tmp_path / "x.json"
    to.write_text("{}")
    assert main(["tune", *TOY, f"runs_dir={tmp_path / 'runs'}", "--to", str(to)]) == 2
    assert f"{to} is no file of tuned step sizes" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_where_choices_cannot_be_kept_is_told_before_the_first_trial(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fedapp.cli.tune.run_sweep", None)
    to = tmp_path / "nowhere" / "tuned.json"
    assert main(["tune", "method=fedit", "engine=local", "--to", str(to)]) == 2
    assert f"--to {to} lies in {tmp_path / 'nowhere'}, which does not exist" in capsys.readouterr().err
