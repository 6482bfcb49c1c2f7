"""Clients that come late or come back, rounds that are over, and how long one waits."""

import numpy as np
import pytest

from fedapp.aggregation import Mean
from fedapp.core.payload import Upload
from fedapp.engines.grid import InProcessGrid
from fedapp.methods.parameter_sharing import AllButMe
from fedapp.server.deadline import CLOCK_SECONDS, LEAST, LONGEST, Deadline
from tests.federation import run_on
from tests.server_side import TRAIN

SETTINGS = ["num_rounds=3", "join_timeout=1", "min_replies=2", "method=fedreft_fixed"]


class Late(InProcessGrid):
    """Client 3's node is there once the first round's messages are out."""

    training = False

    def get_node_ids(self):
        there = super().get_node_ids()
        return there if self.training else there[:3]

    def push_messages(self, messages):
        self.training |= any(message.metadata.message_type == "train" for message in messages)
        return super().push_messages(messages)


def asked(run, client):
    rows = [row for row in run.rows("traffic") if row["phase"] == "train" and row["direction"] == "up"]
    return [row["server-round"] for row in rows if row["client-id"] == client]


def test_a_client_that_comes_late_is_asked_from_the_next_round_on(tmp_path):
    run = run_on(Late, tmp_path / "run", *SETTINGS)
    assert asked(run, 0) == [1, 2, 3]
    late = asked(run, 3)
    assert late[0] > 1
    assert late[-1] == 3
    warnings = run.warnings()
    assert any("the run starts without client 3" in text for text in warnings)
    assert any(text.startswith("client 3 is there now (node ") for text in warnings)
    assert f"it is asked from round {late[0]} on" in " ".join(warnings)


def uploads(*clients):
    return [Upload({"w": np.full(2, float(client))}, {}, client, 10, {}) for client in clients]


@pytest.mark.parametrize(("absent", "others"), [("without", 1.0), ("last", 4.0)])
def test_an_absent_client_counts_with_what_it_sent_last_where_the_method_says_so(absent, others):
    strategy = AllButMe(Mean(weighting="uniform"), absent)
    strategy.aggregate(1, uploads(0, 1, 7), [])
    strategy.aggregate(2, uploads(0, 1), [7])
    assert strategy.download(0, TRAIN).arrays["w"].tolist() == [others, others]
    assert strategy.download(7, TRAIN).arrays["w"].tolist() == [0.5, 0.5]


def test_a_deadline_follows_from_the_first_rounds():
    deadline = Deadline()
    assert deadline.patience(12.5, "train") == 12.5
    for seconds in (50.0, 90.0):
        assert deadline.patience("auto", "train") == LONGEST
        deadline.note("train", seconds, True)
    deadline.note("train", 3000.0, True)
    deadline.note("evaluate", 5.0, False)
    assert deadline.patience("auto", "train") == 270.0
    assert deadline.patience("auto", "evaluate") == LONGEST
    assert Deadline({"train": [1.0, 2.0]}).patience("auto", "train") == LEAST


def test_no_message_outlives_its_round_by_more_than_clocks_differ(tmp_path):
    lives = []

    class Watched(InProcessGrid):
        def push_messages(self, messages):
            lives.extend(message.metadata.ttl for message in messages if message.metadata.group_id != "join")
            return super().push_messages(messages)

    run_on(Watched, tmp_path / "run", "num_rounds=2", "round_timeout=30", num_nodes=2)
    assert set(lives) == {30 + CLOCK_SECONDS, 60 + CLOCK_SECONDS}  # the second waits for the first
