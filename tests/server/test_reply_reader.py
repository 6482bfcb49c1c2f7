"""What a client counts as, and whose scores are comparable."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedapp.core.payload import Payload
from fedapp.server.replies import ReplyReader
from fedapp.wire.limits import Limits
from fedapp.wire.records import Envelope, pack
from tests.server_side import ROW, done_facts


def message(facts, arrays=None):
    """A reply as the grid hands it over."""
    return SimpleNamespace(
        metadata=SimpleNamespace(reply_to_message_id=str(facts["client-id"])),
        has_error=lambda: False,
        content=pack(Envelope(facts, Payload(arrays or {}))),
    )


def read(reader, *facts, server_round=1):
    asked = {str(one["client-id"]): one["client-id"] for one in facts}
    return reader.read("train", server_round, asked, [message(one) for one in facts])


@pytest.fixture
def told():
    return []


def test_a_client_counts_as_no_more_than_it_said_when_it_joined(told):
    reader = ReplyReader(Limits(), told.append, examples={0: 60, 1: 60, 2: 60, 3: 0})
    honest = [done_facts(0), done_facts(1, num_examples=900_000), done_facts(2, num_examples=50)]
    replies = read(reader, *honest, done_facts(3))
    assert [reply.upload.num_examples for reply in replies] == [60, 60, 50, 1]
    assert told[0] == ("client 1 reports num-examples=900000 and said 60 when it joined: it counts as 60")
    read(reader, *honest, done_facts(3))
    assert len(told) == 2  # of each client once


def test_scores_with_other_names_than_those_of_most_are_left_out(told):
    odd = {key: value for key, value in ROW.items() if key != "accuracy"}
    reader = ReplyReader(Limits(), told.append)
    facts = [done_facts(0, rows=[{**odd, "zzz": 1.0}]), done_facts(1), done_facts(2)]
    facts += [done_facts(3, rows=[]), done_facts(4, rows=[ROW, {**odd, "other": 0.1}])]
    no_loss = {key: value for key, value in ROW.items() if key != "loss"}
    facts.append(done_facts(5, rows=[no_loss]))
    assert [reply.upload.client_id for reply in read(reader, *facts)] == [1, 2, 3, 5]
    assert "2 replies of clients 0, 4 are left out: its scores are not called accuracy" in told[0]
    # What most sent first stays the measure, whoever answers later.
    assert read(reader, facts[0]) == []


def test_numbers_at_the_end_of_what_is_accepted_still_have_finite_means(told):
    from fedapp.server.strategy import _weighted_metrics

    reader = ReplyReader(Limits(), told.append)
    facts = [done_facts(n, num_examples=10**6, metrics={"x": 3.4e38}) for n in range(50)]
    means = _weighted_metrics([reply.upload for reply in read(reader, *facts)])
    assert np.isfinite(means["x"])
