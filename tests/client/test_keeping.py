"""What a client keeps of its own rows, and its model's scores on everybody's."""

import json

import pytest

from fedapp.client.keeping import count_rows
from fedapp.client.workplace import ClientSetup
from fedapp.config.compose import load_config
from fedapp.core.types import ClientFailure, Example
from tests.federation import run_toy

MATRIX = ("num_rounds=2", "num_clients=3", "score.matrix=true")


def about_clients(run):
    paths = sorted((run.folder / "adapters").glob("client-*/client.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_rows_are_counted_by_task_and_by_label():
    rows = [Example("a", "x", "sums", 0), Example("b", "y", "sums", 1), Example("c", "y", "odd", 1)]
    assert count_rows(rows, ("x", "y", "z")) == {
        "by-task": {"odd": 1, "sums": 2},
        "by-label": {"x": 1, "y": 2, "z": 0},
    }
    assert count_rows([Example("a", "x", "sums")], ()) == {"by-task": {"sums": 1}, "by-label": {}}


def test_a_client_scores_its_final_model_on_the_test_rows_of_all(tmp_path):
    run = run_toy(
        tmp_path / "run", *MATRIX, "method=local", "partitioner=distinct_task", "benchmark.num_tasks=3"
    )
    abouts = about_clients(run)
    finals = {one["client-id"]: one["final-score"] for one in run.json("summary")["clients"]}
    metric = run.json("summary")["metric"]
    for about in abouts:
        own = str(about["client-id"])
        assert set(about["cross-scores"][metric]) == {"0", "1", "2"}
        assert about["cross-scores"][metric][own] == pytest.approx(finals[about["client-id"]])
    rows = {one["client-id"]: one for one in run.json("summary")["clients"]}
    for about in abouts:
        for split in ("train", "validation", "test"):
            counted = sum(about["rows"][split]["by-task"].values())
            assert counted == rows[about["client-id"]][f"{split}-rows"]


def test_the_scores_change_nothing_of_the_run_and_are_not_sent(tmp_path):
    plain = run_toy(tmp_path / "plain", "num_rounds=2", "num_clients=3")
    crossed = run_toy(tmp_path / "crossed", *MATRIX)
    assert plain.adapters() == crossed.adapters()
    assert plain.rows("metrics") == crossed.rows("metrics")
    payload = [[row["payload-bytes"] for row in run.rows("traffic")] for run in (plain, crossed)]
    assert payload[0] == payload[1]
    assert [about["cross-scores"] for about in about_clients(plain)] == [{}] * 3


def test_without_adapters_nothing_is_kept(tmp_path):
    run = run_toy(tmp_path / "run", "num_rounds=1", "num_clients=2", "save_adapters=false")
    assert list(run.folder.glob("adapters/*/client.json")) == []


def test_a_matrix_needs_rows_that_were_dealt():
    words = ["model=toy", "adapter=toy", "benchmark=toy", "partitioner=private", "score.matrix=true"]
    with pytest.raises(ClientFailure, match=r"partitioner=private nobody has them: set score\.matrix=false"):
        ClientSetup(load_config(words))
