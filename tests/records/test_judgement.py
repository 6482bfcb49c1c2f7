"""Final models that say nothing of their prompts: told in summary, log and run.json, by client."""

import json

import pytest

from fedapp.core.types import CONSTANT_SCORE, EMPTY_SHARE, JUDGED, LOST_SHARE, SAME_SHARE
from fedapp.records.results import validation_score
from fedapp.records.rows import ScoreRow, main_metric
from fedapp.records.summary import summarise
from tests.federation import run_toy


def final(client, score, *, same=0.5, empty=0.0, lost=0.0, constant=0.5, count=16, **more):
    """A row of a final model on test data; ``more`` overrides its split or metric."""
    judged = {SAME_SHARE: same, EMPTY_SHARE: empty, LOST_SHARE: lost, CONSTANT_SCORE: constant}
    row = {"server_round": 1, "client_id": client, "split": "test", "model": "final", "moment": "after"}
    return ScoreRow(**{**row, **more}, num_examples=count, metrics={"loss": 1.0, "accuracy": score, **judged})


def warnings(*rows, hostile=()):
    return summarise(rows, {}, [], hostile).to_json()["warnings"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (final(0, 0.75), None),
        (
            final(0, 0.0, empty=1.0, same=1.0),
            "client 0: the final model gives an empty answer to every test row",
        ),
        (final(0, 0.25, same=1.0), "client 0: the final model gives the same answer to every test row"),
        (
            final(0, 0.5),
            "client 0: the final score is exactly that of giving every test row the most frequent",
        ),
        (final(0, 0.0, same=1.0, constant=0.9, count=1), None),  # one row has one answer
        (final(0, 0.5, count=15), None),  # by chance
        (final(0, 1.0, same=1.0, constant=1.0), None),  # all rows want the same
        (final(0, 0.75, empty=0.5), None),
        (
            final(0, 0.75, lost=0.125),
            "client 0: its model's tokenizer cannot write 12.5 % of the test targets",
        ),
        (final(0, 0.5, split="validation"), None),
    ],
)
def test_a_final_model_that_says_nothing_is_named(row, said):
    found = warnings(row)
    assert found == [] if said is None else [text.startswith(said) for text in found] == [True]


def test_clients_of_one_fault_share_a_line_and_hostile_ones_have_none():
    constant = [final(client, 0.25, same=1.0) for client in (0, 1, 2)]
    assert warnings(*constant) == ["all clients: the final model gives the same answer to every test row"]
    some = warnings(*constant[:2], final(2, 0.75))
    assert some == ["clients 0, 1: the final model gives the same answer to every test row"]
    assert warnings(constant[0], final(1, 0.75), final(2, 0.75), hostile=[0]) == []


def test_what_clients_say_of_their_answers_is_no_metric():
    row = final(0, 0.75)
    reordered = {**{name: row.metrics[name] for name in JUDGED}, "accuracy": 0.75}
    assert main_metric([ScoreRow(1, 0, "test", "final", "after", 8, reordered)]) == "accuracy"


def test_an_optimiser_goes_by_the_best_round_else_by_the_final_one(tmp_path):
    rows = [final(client, score, split="validation") for client, score in ((0, 0.5), (1, 0.25), (2, 1.0))]
    summary = summarise([*rows, final(0, 0.75)], {}, [], hostile=[2]).to_json()
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert validation_score(tmp_path) == 0.375
    earlier = final(0, 0.9, split="validation", server_round=1, model="current")
    tests = [final(0, 0.3, server_round=1, model="current"), final(0, 0.3, server_round=2)]
    last = final(0, 0.4, split="validation", server_round=2)
    (tmp_path / "summary.json").write_text(json.dumps(summarise([earlier, *tests, last], {}, []).to_json()))
    assert validation_score(tmp_path) == 0.9
    (tmp_path / "summary.json").write_text(json.dumps(summarise(tests, {}, []).to_json()))
    assert validation_score(tmp_path) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    words = ["num_rounds=1", "save_predictions=true", "score.splits=[validation,test]", "num_clients=2"]
    return run_toy(tmp_path_factory.mktemp("runs") / "run", *words, num_nodes=2)


def test_a_run_whose_answers_are_constant_says_so_everywhere(run):
    said = "all clients: the final model gives the same answer to every test row"  # the toy knows no prompt
    assert run.json("summary")["warnings"] == [said]
    assert said in run.json("run")["warnings"]
    assert said in [row["message"] for row in run.rows("events") if row["event"] == "warning"]
    told = [row["metrics"] for row in run.rows("events") if row["event"] == "round"]
    assert not [name for metrics in told for name in metrics if any(one in name for one in JUDGED)]


def test_predictions_are_kept_beside_the_adapter(run):
    for client in (0, 1):
        path = run.folder / "adapters" / f"client-{client}" / "predictions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert list(rows[0]) == ["split", "row", "prompt-id", "answer", "target", "completion"]
        scored = {
            (row["split"], row["num-examples"]): row["accuracy"]
            for row in run.rows("metrics")
            if row["client-id"] == client and row["model"] == "final" and row["split"] != "train"
        }
        for (split, count), accuracy in scored.items():
            own = [row for row in rows if row["split"] == split]
            assert [row["row"] for row in own] == list(range(count))
            assert sum(row["answer"] == row["target"] for row in own) / count == accuracy
        assert not list(path.parent.glob("*.partial"))
