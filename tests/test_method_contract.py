"""What every method must keep, over every file of conf/method, with the toy model in process."""

import numpy as np
import pytest
from safetensors.numpy import load

from fedapp.engines.grid import Network
from tests import federation
from tests.contract import METHODS, contract
from tests.federation import run_toy


@pytest.fixture(scope="module", params=METHODS)
def method(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "TOY", [*federation.TOY, *contract(request.param).toy])
        yield f"method={request.param}"


@pytest.fixture(scope="module")
def plain(method, tmp_path_factory):
    """Two rounds of four clients in which nothing happens, which the other runs are held against."""
    return run_toy(tmp_path_factory.mktemp("plain") / "run", method, "num_rounds=2")


def scores(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.rows("metrics")]


def test_every_client_trains_in_every_round_and_ends_with_an_adapter(plain):
    run = plain
    trained = {
        (row["server-round"], row["client-id"]) for row in run.rows("metrics") if row["split"] == "train"
    }
    assert trained >= {(r, c) for r in (1, 2) for c in range(4)}
    for blob in run.adapters().values():
        assert all(np.isfinite(array).all() for array in load(blob).values())
    assert {f"client-{c}" for c in range(4)} <= set(run.adapters())
    assert run.json("run")["status"] == "completed"


def test_the_same_seed_gives_the_same_bits_whatever_the_order_of_replies(method, plain, tmp_path):
    second = run_toy(tmp_path / "b", method, "num_rounds=2", network=Network(reverse=True))
    other = run_toy(tmp_path / "c", method, "num_rounds=2", "seed=2")
    assert plain.adapters() == second.adapters()
    assert scores(plain) == scores(second)
    assert plain.adapters() != other.adapters()


def test_nodes_that_stand_in_for_several_clients_change_nothing(method, plain, tmp_path):
    shared = run_toy(tmp_path / "b", method, "num_rounds=2", num_nodes=2)
    spare = run_toy(tmp_path / "c", method, "num_rounds=2", num_nodes=7)
    assert plain.adapters() == shared.adapters() == spare.adapters()


def test_a_client_whose_replies_are_lost_or_doubled_does_not_stop_the_others(method, tmp_path):
    network = Network(
        drop=lambda client, request: client == 2 and request.metadata.message_type == "train",
        repeat=lambda client, request: client == 1,
    )
    run = run_toy(tmp_path / "run", method, "num_rounds=2", network=network)
    assert any("without client 2" in warning for warning in run.warnings())
    trained = {
        row["client-id"] for row in run.rows("metrics") if row["split"] == "train" and "train-loss" in row
    }
    assert trained == {0, 1, 3}


def test_only_some_clients_are_asked_where_the_run_says_so(method, tmp_path):
    run = run_toy(tmp_path / "run", method, "num_rounds=3", "clients_per_round=2")
    for server_round in (1, 2, 3):
        sent = [r for r in run.rows("traffic") if r["server-round"] == server_round and r["phase"] == "train"]
        assert len({row["client-id"] for row in sent}) == 2
    again = run_toy(tmp_path / "again", method, "num_rounds=3", "clients_per_round=2")
    # The wire bytes of a reply hold how long it took.
    assert [row | {"wire-bytes": 0} for row in run.rows("traffic")] == [
        row | {"wire-bytes": 0} for row in again.rows("traffic")
    ]


def test_traffic_is_the_same_up_and_down_counts_exactly(method, plain):
    said = contract(method.removeprefix("method="))
    rows = [row for row in plain.rows("traffic") if row["server-round"]]
    uploads = [row["payload-bytes"] for row in rows if row["direction"] == "up" and row["phase"] == "train"]
    assert uploads == [said.uploaded] * 8
    first = [r["payload-bytes"] for r in rows if r["direction"] == "down" and r["server-round"] == 1][:4]
    assert first == [said.first] * 4
    assert all(row["wire-bytes"] > row["payload-bytes"] for row in rows)
