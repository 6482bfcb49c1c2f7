"""What a client measures of its final model and keeps of it, on its own machine."""

import json
from types import SimpleNamespace

import pytest

from fedapp.client.scoring import ScoreConfig, Scorer
from fedapp.client.workplace import require_ratings
from fedapp.core.types import CONSTANT_SCORE, EMPTY_SHARE, LOST_SHARE, SAME_SHARE, ClientFailure, Example
from fedapp.records.predictions import Prediction, prompt_id, write_predictions
from fedapp.toy.adapter import ToyModel
from fedapp.toy.benchmark import Toy
from tests.federation import run_toy


def final_row(says, targets, lost=None):
    """The row and the predictions of a model that says these things, in this order."""
    model = SimpleNamespace(generate=lambda prompts: list(says), loss=lambda examples: 0.5)
    examples = [Example(f"p{i}", target) for i, target in enumerate(targets)]
    session = SimpleNamespace(val_set=(), test_set=examples)
    config = ScoreConfig(("validation", "test"), base=False, before=False, after=False)
    scorer = Scorer(model, Toy(), config) if lost is None else Scorer(model, Toy(), config, lost)
    (row,), predictions = scorer.final_rows(session)
    return row, predictions


def test_shares_and_the_constant_score_by_hand():
    row, _ = final_row(["a", "a", "", "b"], ["a", "b", "b", "b"])
    assert (row.scores["accuracy"], row.scores["loss"]) == (0.5, 0.5)
    assert row.scores[SAME_SHARE] == 0.5
    assert row.scores[EMPTY_SHARE] == 0.25
    assert row.scores[CONSTANT_SCORE] == 0.75
    assert row.scores[LOST_SHARE] == 0.0
    assert list(row.scores)[:2] == ["loss", "accuracy"]  # the main metric stays in front


def test_lost_targets_are_asked_of_the_model():
    row, _ = final_row(["a", "a"], ["a", "b"], lost=lambda targets: targets.count("b") / len(targets))
    assert row.scores[LOST_SHARE] == 0.5


def test_predictions_hold_what_was_said_and_not_the_prompt(tmp_path):
    _, predictions = final_row(["a", " b"], ["a", "b"])
    write_predictions(tmp_path / "new", predictions)
    rows = [json.loads(line) for line in (tmp_path / "new" / "predictions.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "split": "test",
        "row": 1,
        "prompt-id": prompt_id("p1"),
        "answer": " b",
        "target": "b",
        "completion": " b",
    }


def test_a_folder_that_cannot_be_written_is_told_in_one_line_without_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ClientFailure) as caught:
        write_predictions(tmp_path / "file" / "x", [Prediction("test", 0, "secret", "c", "a", "t")])
    text = "save_predictions=true, but predictions.jsonl cannot be written: Not a directory"
    assert str(caught.value) == text


def test_without_being_asked_nothing_is_kept(tmp_path):
    run = run_toy(tmp_path / "run", "num_rounds=1", "num_clients=2", num_nodes=2)
    assert not list(run.folder.rglob("predictions.jsonl"))


class WithOptions(Toy):
    """The toy, whose model chooses."""

    has_options = True


def test_where_examples_have_options_the_model_chooses_and_does_not_write():
    class Model(ToyModel):
        def __init__(self):
            pass

        def rate_options(self, examples):
            return [[-1.0, -2.0], [-3.0, -0.5]]

        def loss(self, examples):
            return 0.5

    examples = [Example(f"p{i}", "no", options=("yes", "no")) for i in range(2)]
    session = SimpleNamespace(val_set=(), test_set=examples)
    config = ScoreConfig(("test",), base=False, before=False, after=False)
    (row,), predictions = Scorer(Model(), WithOptions(), config).final_rows(session)
    assert [one.answer for one in predictions] == ["yes", "no"]
    assert row.scores["accuracy"] == 0.5


def test_a_model_that_rates_no_options_is_refused_where_it_is_to_choose():
    require_ratings(Toy(), SimpleNamespace())
    with pytest.raises(ClientFailure, match=r"benchmark\.scoring='loglikelihood' needs a model that rates"):
        require_ratings(WithOptions(), SimpleNamespace())
