"""Clients that come late or come back, rounds that are over, and how long one waits."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fedapp.aggregation import Mean
from fedapp.core.payload import Upload
from fedapp.engines.grid import InProcessGrid, _read_context
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


class BackAsAnother(InProcessGrid):
    """Client 3's node is started anew in round 2: the same party under another number."""

    old = new = 0
    leaves = "2"
    """The round in which the old one is no longer counted."""

    def push_messages(self, messages):
        sent = super().push_messages(messages)
        groups = {message.metadata.group_id for message in messages}
        if not self.new and "2" in groups:
            self.old = next(node for node, client in self._nodes.items() if client == 3)
            self.new = self.old ^ 1
            context = _read_context(self._contexts[self.old][""].tobytes())
            config = context.node_config
            self._nodes[self.new] = 3
            self._keep(Context(context.run_id, self.new, config, RecordDict(), dict(context.run_config)))
        if self.leaves in groups:
            self._nodes.pop(self.old, None)
        return sent


class BackTooSoon(BackAsAnother):
    """The old one counts as there until round 4."""

    leaves = "4"


def run_and_grid(kind, folder, *settings):
    made = []

    def grid(*args, **kwargs):
        made.append(kind(*args, **kwargs))
        return made[0]

    return run_on(grid, folder, *SETTINGS, *settings), made[0]


def test_a_party_that_comes_back_under_another_number_is_asked_under_that_one(tmp_path):
    run, grid = run_and_grid(BackAsAnother, tmp_path / "run", "num_rounds=4")
    assert asked(run, 0) == [1, 2, 3, 4]
    assert asked(run, 3) == [1, 3, 4]  # the message of round 2 went to the node that is gone
    warnings = run.warnings()
    assert f"round 2: a reply of client 3 is left out: node {grid.old} is not known" in " ".join(warnings)
    assert any(text.startswith(f"client 3 is there now (node {grid.new})") for text in warnings)


def test_a_party_that_is_back_before_its_old_node_is_gone_is_asked_once_that_is(tmp_path):
    run, grid = run_and_grid(BackTooSoon, tmp_path / "run", "num_rounds=6")
    warnings = run.warnings()
    left_out = f"node {grid.new} claims client 3, which another node is: it is left out"
    assert len([text for text in warnings if text.startswith(left_out)]) == 1
    (told,) = [text for text in warnings if text.startswith(f"client 3 is there now (node {grid.new})")]
    assert told.endswith("it is asked from round 5 on")


class AnsweredAgain(InProcessGrid):
    """What was answered in earlier rounds arrives once more, before what is asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.before = []

    def pull_messages(self, message_ids):
        found = super().pull_messages(message_ids)
        self.before += found
        return [*self.before, *found]


def test_a_reply_to_an_earlier_round_counts_in_none(tmp_path):
    settings = ["num_rounds=3", "method=fedreft_fixed"]
    usual = run_on(InProcessGrid, tmp_path / "usual", *settings)
    again = run_on(AnsweredAgain, tmp_path / "again", *settings)
    assert again.warnings() == usual.warnings()
    assert again.adapters() == usual.adapters()
    assert len(again.rows("traffic")) == len(usual.rows("traffic"))
