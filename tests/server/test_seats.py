"""Who holds which client: a number belongs to a node, and claims of others' numbers are found out."""

import re
from types import SimpleNamespace

import pytest

from fedapp.config.run import RunSettings
from fedapp.core.errors import FederationError
from fedapp.server import directory as directories
from fedapp.server.directory import ClientDirectory
from fedapp.wire.limits import Limits
from fedapp.wire.messages import Failed, Join, Joined
from tests.server_side import body, raw_records


class Nodes:
    """A grid whose nodes give fixed answers, each after so many looks."""

    def __init__(self, answers, leave=()):
        self.answers = answers
        self.leave = leave
        self.looks = 0

    def get_node_ids(self):
        return [node for node in self.answers if self.looks == 0 or node not in self.leave]

    def push_messages(self, messages):
        return [str(message.metadata.dst_node_id) for message in messages]

    def pull_messages(self, message_ids):
        self.looks += 1
        return [self.reply(int(name)) for name in message_ids if self.answers[int(name)][0] <= self.looks]

    def reply(self, node):
        content = self.answers[node][1]
        return SimpleNamespace(
            metadata=SimpleNamespace(reply_to_message_id=str(node)), has_error=lambda: False, content=content
        )


def claims(*clients, base="base", rows=60):
    return Joined(tuple(clients), (base,) * len(clients), (rows,) * len(clients)).pack()


@pytest.fixture
def join(monkeypatch):
    monkeypatch.setattr(directories, "POLL_SECONDS", 0.0)

    class Sent(SimpleNamespace):
        def __init__(self, content, dst_node_id, message_type, group_id):
            super().__init__(metadata=SimpleNamespace(dst_node_id=dst_node_id))

    monkeypatch.setattr(directories, "Message", Sent)

    def go(answers, seats=(), num_clients=4, needed=1, timeout=5.0, **grid):
        told = []
        directory = ClientDirectory([""] * num_clients, {"": None}, Limits(), told.append, seats)
        spread = {node: one if isinstance(one, tuple) else (1, one) for node, one in answers.items()}
        directory.join(Nodes(spread, **grid), Join("{}"), timeout, needed)
        return directory, told

    return go


HONEST = {100 + client: claims(client) for client in range(4)}


def test_a_node_each_and_one_node_for_several_clients(join):
    directory, told = join(HONEST)
    assert directory.nodes == {0: 100, 1: 101, 2: 102, 3: 103}
    assert directory.examples == dict.fromkeys(range(4), 60)
    assert told == []
    directory, told = join({7: claims(0, 2), 8: claims(1, 3)})
    assert directory.nodes == {0: 7, 1: 8, 2: 7, 3: 8}
    assert told == []
    assert join({7: claims(0, 2, 4), 8: claims(1, 3)}, num_clients=5)[1] == []


@pytest.mark.parametrize("greedy", [(0, 1, 2), (3,), (2, 0)])
@pytest.mark.parametrize("late", [1, 3], ids=["first", "last"])
def test_two_claims_on_one_client_end_the_run_and_name_both_nodes(join, greedy, late):
    answers = {**{node: (4 - late, one) for node, one in HONEST.items()}, 50: (late, claims(*greedy))}
    first = min(greedy)
    with pytest.raises(
        FederationError, match=rf"^nodes 50 and {100 + first} both claim client {first}: .*seats"
    ):
        join(answers)


def test_who_answers_first_does_not_take_the_seats_of_those_who_take_longer(join):
    with pytest.raises(FederationError, match="nodes 50 and 100 both claim client 0"):
        join({50: (1, claims(0, 1, 2, 3)), **{node: (20, one) for node, one in HONEST.items()}})


def test_with_seats_a_false_claim_is_left_out_by_name_and_the_run_goes_on(join):
    directory, told = join({50: claims(0, 1, 2), **HONEST}, seats=[100, 101, 102, 103])
    assert directory.nodes == {0: 100, 1: 101, 2: 102, 3: 103}
    assert told == ["node 50 claims client 0, 1, 2, bound to node 100, 101, 102 (seats); that is left out"]
    directory, told = join({**HONEST, 103: claims(3, 0)}, seats=[100, None, None, 103])
    assert directory.nodes == {0: 100, 1: 101, 2: 102, 3: 103}
    assert "node 103 claims client 0, bound to node 100" in told[0]


def test_with_seats_a_stranger_that_fails_is_not_heard_in_anothers_place(join):
    failed = Failed("I am client 0", (0,)).pack()
    slow = {**HONEST, 103: (9, HONEST[103])}
    directory, told = join({50: failed, 51: Failed("nobody").pack(), **slow}, seats=[100, 101, 102, 103])
    assert sorted(directory.nodes) == [0, 1, 2, 3]
    assert told[0].startswith("node 50 claims client 0, bound to node 100")


def test_where_all_seats_are_bound_nobody_else_is_waited_for(join):
    directory, _ = join({**HONEST, 50: (10**9, claims(9))}, seats=[100, 101, 102, 103], timeout=600.0)
    assert len(directory.nodes) == 4


@pytest.mark.parametrize("client", [-1, 4])
def test_a_client_that_there_is_not_costs_the_node_its_place(join, client):
    directory, told = join({**HONEST, 50: claims(client, 0)})
    assert directory.nodes == {0: 100, 1: 101, 2: 102, 3: 103}
    assert told == [f"a node cannot join: it claims client {client}, outside 0 to 3"]


def test_a_node_that_left_and_came_back_as_another_is_no_second_claim(join):
    directory, _ = join({90: claims(2), **{node: (2, one) for node, one in HONEST.items()}}, leave=(90,))
    assert directory.nodes[2] == 102


def test_more_clients_and_more_rows_than_others_have_are_warned_of(join):
    directory, told = join({50: claims(0, 1, 2), 103: claims(3)})
    assert directory.nodes == {0: 50, 1: 50, 2: 50, 3: 103}
    assert re.match("node 50 holds clients 0, 1, 2, another node holds 1: .*seats", told[0])
    _, told = join({**HONEST, 102: claims(2, rows=900_000)})
    assert told[0].startswith("client 2 says that it has 900000 of all 900180 training rows")


def test_an_answer_that_is_malformed_takes_no_seat(join):
    odd = {50: raw_records(b"[" * 10_000), 51: raw_records(body({"clients": [2], "fingerprints": ["base"]}))}
    directory, told = join({**HONEST, **odd})
    assert sorted(directory.nodes.values()) == [100, 101, 102, 103]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("seats", "said"),
    [
        ("100", "seats='100' must be a list of node ids"),
        ([1, 2], "names 2 nodes, must name one for each of num_clients=4"),
        ([1, 2, 3, "x"], "must be a list of node ids"),
        ([1, 2, 3, -1], "must be a list of node ids"),
        ([1, 2, 3, True], "must be a list of node ids"),
        (None, "seats=null must be a list"),
    ],
)
def test_seats_that_cannot_be_used_are_refused(seats, said):
    with pytest.raises(ValueError, match=said):
        RunSettings(seats=seats)
    assert RunSettings(seats=[1, None, 3, 2**64 - 1]).seats[3] == 2**64 - 1
