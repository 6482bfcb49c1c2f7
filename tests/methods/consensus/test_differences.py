"""Adaptive exchange: only what changed travels, and lost messages cannot put the two sides out of step."""

import numpy as np
import pytest

from fedapp.methods.consensus.differences import MEMORY, ClientMemory, ServerMemory, as_texts

NUM = 12


class Client:
    """A client's side; its memory survives only as bytes, as in a real run."""

    def __init__(self):
        self.state = {}

    def serve(self, download, answers, server_round):
        memory = ClientMemory.of(self.state)
        memory.take(download, NUM)
        texts = memory.give(answers, download, server_round)
        self.state = {MEMORY: memory.array()}
        return texts, memory.labels


def texts(rng, old=None, change=1.0):
    """Random texts to random prompts, or a slight change of old ones."""
    old = old or {}
    fresh = {n: f"text {rng.integers(1000)}" for n in range(NUM) if rng.random() < 0.8}
    return {n: fresh.get(n, "new") if rng.random() < change else t for n, t in (fresh | old).items()}


def apply(held, upload):
    """What a server makes of an upload's answers."""
    return held | {int(n): text for n, text in zip(upload["ids"], upload["answers"], strict=True)}


def test_a_second_upload_holds_what_changed():
    client, server = Client(), ServerMemory()
    first, _ = client.serve({}, {0: "a", 1: "b"}, 1)
    assert first == {"ids": ["0", "1"], "answers": ["a", "b"]}
    assert server.confirmed(5, first, 1) == ""
    download, _ = server.download(5)
    second, _ = client.serve(download, {0: "a", 1: "c"}, 2)
    assert second == {"ids": ["1"], "answers": ["c"], "base": ["1"]}


def test_a_second_download_holds_what_changed_and_what_is_gone():
    client, server = Client(), ServerMemory()
    server.publish(1, {0: "a", 1: "b", 2: "c"})
    full, saved = server.download(5)
    assert full == {"ids": ["0", "1", "2"], "labels": ["a", "b", "c"], "version": ["1"]}
    assert saved == -1  # the version
    upload, labels = client.serve(full, {}, 2)
    assert (upload["have"], labels) == (["1"], {0: "a", 1: "b", 2: "c"})
    server.confirmed(5, upload, 2)
    server.publish(2, {0: "a", 1: "x"})
    change, saved = server.download(5)
    assert change == {
        "heard": ["2"], "ids": ["1"], "labels": ["x"], "version": ["2"], "base": ["1"], "gone": ["2"]
    }  # fmt: skip
    assert saved == (1 + 1) * 2 - 6  # six texts of one character each instead of two ids and two labels
    assert client.serve(change, {}, 3)[1] == {0: "a", 1: "x"}


def test_a_client_that_lost_its_memory_gets_everything_again():
    server, client = ServerMemory(), Client()
    server.publish(1, {0: "a"})
    upload, _ = client.serve(server.download(5)[0], {3: "z"}, 2)
    server.confirmed(5, upload, 2)
    client.state = {}
    server.publish(2, {0: "a", 1: "b"})
    upload, labels = client.serve(server.download(5)[0], {3: "z"}, 3)
    assert labels == {}  # rather none than wrong ones
    assert upload == {"ids": ["3"], "answers": ["z"]}  # and all answers
    server.confirmed(5, upload, 3)
    assert client.serve(server.download(5)[0], {}, 4)[1] == {0: "a", 1: "b"}


def test_a_change_to_answers_that_are_not_held_is_refused_and_the_next_upload_is_whole():
    server, client = ServerMemory(), Client()
    assert "not held here" in server.confirmed(5, {"ids": ["0"], "answers": ["a"], "base": ["7"]}, 3)
    assert "base" not in client.serve(server.download(5)[0], {0: "a"}, 4)[0]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_lost_both_sides_agree_as_soon_as_a_message_arrives(seed):
    rng = np.random.default_rng(seed)
    clients, server = [Client() for _ in range(3)], ServerMemory()
    held, answers, labels = [{}, {}, {}], [texts(rng) for _ in range(3)], {}
    changes = 0
    for server_round in range(1, 25):
        downloads = {c: server.download(c)[0] for c in range(3) if rng.random() < 0.8}
        restarted = rng.random() < 0.05
        if restarted:
            server = ServerMemory()  # restarted without its memory …
            server.publish(server_round - 1, labels)  # … but for the labels
            held = [{}, {}, {}]
        for c, download in downloads.items():
            if rng.random() < 0.2:
                continue  # the download is lost
            if rng.random() < 0.05:
                clients[c].state = {}
            answers[c] = texts(rng, answers[c], change=0.2)
            upload, seen = clients[c].serve(download, answers[c], server_round)
            assert seen in ({}, labels)
            changes += "base" in download and seen == labels
            if rng.random() < 0.2:
                continue  # the reply is lost
            refused = server.confirmed(c, upload, server_round)
            assert not refused or restarted
            if not refused:
                held[c] = apply(held[c], upload)
                assert all(held[c][n] == text for n, text in answers[c].items())
        labels = texts(rng, labels, change=0.2)
        server.publish(server_round, labels)
        assert len(server.labels) <= 4  # no more than clients can refer to
    assert changes > 5


def test_texts_are_ordered_by_prompt():
    assert as_texts("labels", {10: "b", 9: "a"}) == {"ids": ["9", "10"], "labels": ["a", "b"]}
