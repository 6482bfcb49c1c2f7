"""The centralised end: one model, the rows of all, as many steps as all clients together make."""

from fedapp.client import workplace as workplaces
from fedapp.config.compose import load_config
from tests.federation import TOY, run_toy


def test_one_client_a_round_trains_on_the_pool_and_all_are_scored_with_it(tmp_path):
    run = run_toy(tmp_path / "run", "method=centralised", "num_rounds=3")
    trained = [row for row in run.rows("metrics") if row["split"] == "train" and "train-loss" in row]
    assert [row["server-round"] for row in trained] == [1, 2, 3]
    together = sum(len(workplaces.ClientSetup(load_config(TOY)).data(c).train) for c in range(4))
    assert {row["num-examples"] for row in trained} == {together}
    final = {row["client-id"] for row in run.rows("metrics") if row["model"] == "final"}
    assert final == {0, 1, 2, 3}
    blobs = run.adapters()
    assert len(set(blobs.values())) == 1  # one model: every client's adapter and the shared one


def test_a_round_goes_on_from_the_round_before(tmp_path):
    short = run_toy(tmp_path / "a", "method=centralised", "num_rounds=1")
    long = run_toy(tmp_path / "b", "method=centralised", "num_rounds=2")
    losses = [
        row["train-loss"] for row in long.rows("metrics") if row["split"] == "train" and "train-loss" in row
    ]
    assert losses[1] < losses[0]
    assert short.adapters() != long.adapters()
