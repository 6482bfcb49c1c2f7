"""The round that is best on validation data: chosen without the test split, reported with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fedapp.cli.main import main
from fedapp.records.rows import ScoreRow
from fedapp.records.summary import best_round, summarise
from fedapp.records.table import summary_notes
from tests.cli.test_compare import make_run


def evaluated(scores, *, metric="accuracy", last=None):
    """Rows of evaluations: {(round, client): (validation, test)}; the last round's models are final."""
    last = last or max(server_round for server_round, _ in scores)
    return [
        ScoreRow(
            server_round,
            client,
            split,
            "final" if server_round == last else "current",
            "after",
            metrics={metric: value},
        )
        for (server_round, client), values in scores.items()
        for split, value in zip(("validation", "test"), values, strict=True)
        if value is not None
    ]


def test_validation_data_choose_and_test_data_do_not():
    rows = evaluated({(1, 0): (0.5, 0.9), (2, 0): (0.8, 0.4), (3, 0): (0.7, 1.0)})
    best = best_round(rows, "accuracy")
    assert (best.server_round, best.evaluated, best.scores) == (2, 3, {0: 0.4})


def test_of_equal_rounds_the_earliest_is_taken():
    rows = evaluated({(1, 0): (0.5, 0.1), (2, 0): (0.7, 0.2), (3, 0): (0.7, 0.3)})
    assert best_round(rows, "accuracy").server_round == 2


def test_a_client_that_missed_an_evaluation_does_not_choose():
    # Counted in, client 1 would make round 1 the best: a higher mean over fewer clients.
    rows = evaluated({(1, 0): (0.5, 0.5), (1, 1): (1.0, 1.0), (2, 0): (0.6, 0.6)}, last=2)
    best = best_round(rows, "accuracy")
    assert (best.server_round, best.scores) == (2, {0: 0.6})


def test_a_round_that_lacks_a_client_is_no_choice():
    # Round 2 is best on validation data, but its mean on test data would be without the weak client.
    scores = {
        (1, 0): (0.5, 0.5),
        (1, 1): (0.3, 0.2),
        (2, 0): (0.9, 0.9),
        (3, 0): (0.6, 0.6),
        (3, 1): (0.1, 0.1),
    }
    best = best_round(evaluated(scores), "accuracy")
    assert (best.server_round, best.evaluated, best.scores) == (1, 2, {0: 0.5, 1: 0.2})


def test_rounding_breaks_no_tie():
    first = {(1, client): (value, 0.1) for client, value in enumerate((0.3, 0.3, 0.3))}
    other = {(2, client): (value, 0.2) for client, value in enumerate((0.1, 0.2, 0.6))}
    assert sum((0.3, 0.3, 0.3)) < sum((0.1, 0.2, 0.6))
    assert best_round(evaluated(first | other), "accuracy").server_round == 1


def test_what_training_rounds_score_on_the_way_is_no_evaluation():
    rows = evaluated({(1, 0): (0.5, 0.5), (2, 0): (0.6, 0.6)})
    first = [replace(row, metrics={"accuracy": 1.0}) for row in rows if row.server_round == 1]
    extra = [replace(row, model="own") for row in first] + [replace(row, moment="before") for row in first]
    assert best_round([*extra, *rows], "accuracy").server_round == 2


@pytest.mark.parametrize(
    "scores",
    [
        {(3, 0): (0.5, 0.5)},
        {(1, 0): (None, 0.4), (2, 0): (None, 0.5)},
        {(1, 0): (0.4, None), (2, 0): (0.5, 0.5)},
        {(1, 0): (0.4, 0.4), (2, 1): (0.5, 0.5)},
    ],
    ids=["one round", "no validation data", "one round with test data", "no client in all rounds"],
)
def test_without_a_choice_there_is_no_best_round(scores):
    assert best_round(evaluated(scores), "accuracy") is None


def test_the_summary_says_which_round_and_leaves_hostile_clients_out():
    scores = {(1, 0): (0.5, 0.25), (2, 0): (0.4, 0.5), (1, 1): (0.0, 0.0), (2, 1): (1.0, 1.0)}
    summary = summarise(evaluated(scores), {}, [], hostile=[1]).to_json()
    notes = summary_notes(summary)
    assert "best on validation data: round 1 of the 2 evaluated, test mean 25.0" in notes
    assert summary["best-round"]["test-scores"] == {"0": 0.25}


def test_compare_shows_it_beside_the_final_round(tmp_path, capsys):
    for seed, test in ((1, 0.75), (2, 0.85)):
        folder = make_run(tmp_path / "runs" / str(seed), seed, (0.5,), (0.1,))
        rows = evaluated({(seed, 0): (0.9, test), (3, 0): (0.1, 0.6)})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    assert main(["compare", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "80.0 ± 7.1" in output
    assert "@ 1 2" in output
    assert "60.0 ± 0.0" in output
    assert "accuracy of the final models" in output


def test_compare_by_another_metric(tmp_path, capsys):
    folder = make_run(tmp_path / "runs" / "one", 1, (0.5,), (0.1,))
    row = evaluated({(1, 0): (None, 0.5)})[0].to_json()
    (folder / "metrics.jsonl").write_text(json.dumps({**row, "macro-f1": 0.3}) + "\n")
    assert main(["compare", str(tmp_path / "runs"), "--metric", "macro-f1"]) == 0
    output = capsys.readouterr().out
    assert "30.0" in output
    assert "50.0" not in output
    assert "macro-f1 of the final models" in output
    assert "best" not in output
    assert main(["compare", str(tmp_path / "runs"), "--metric", "rouge"]) == 2
    errors = capsys.readouterr().err
    assert f"{folder} is left out: metrics.jsonl holds no rouge on the test split" in errors
    assert "no finished run with rouge scores in" in errors
    for name in ("loss", "client-id", "split"):
        assert main(["compare", str(tmp_path / "runs"), "--metric", name]) == 2
        assert f"--metric {name} is no score" in capsys.readouterr().err
