"""What the algebra of a method promises, over every file of conf/method, on a real model.

Strategies and routines run by hand here, without Flower: what a client does with what it received
is compared by what its model then computes, whatever the method sends.
"""

from dataclasses import replace

import numpy as np
import pytest

from fedapp.client import workplace as workplaces
from fedapp.config.build import build
from fedapp.config.compose import load_config
from fedapp.core.method import Moment
from fedapp.core.payload import Payload, Upload
from fedapp.methods.parameter_sharing import AllButMe
from tests.contract import METHODS as ALL
from tests.contract import contract
from tests.server_side import OPEN, TRAIN, begin

# Clients that send answers use the model they trained: what they promise is in test_semantic_consensus.py.
METHODS = [name for name in ALL if not contract(name).answers]
SMALL = ["num_clients=4", "split.max_train=8", "split.max_test=6", "train.max_steps=2", "split.val_share=0.1"]


def skip_if_exempt(method, promise):
    if reason := contract(method).exempt.get(promise):
        pytest.skip(reason)


class Federation:
    """Clients of one method with their memories; uploads of the last round."""

    def __init__(self, name):
        workplaces.close()
        self.config = load_config([f"method={name}", *SMALL])
        self.place = workplaces.Workplace(self.config)
        self.strategy = self.new_strategy()
        self.states = {client: {} for client in range(4)}
        self.uploads = []

    def new_strategy(self):
        strategy = build(self.config["method"]["strategy"], "method.strategy")
        begin(strategy)
        return strategy

    def round(self, number):
        if number == 1 and self.strategy.opens:
            self.exchange(OPEN)
            self.strategy.open(self.uploads)
        self.exchange(Moment(number))
        self.before = self.strategy
        self.strategy.aggregate(1, self.uploads, [])

    def exchange(self, moment):
        self.uploads = []
        routine = self.place.setup.routine
        for client, state in self.states.items():
            session = self.place.session(client, moment.server_round, state, moment.phase)
            download = self.strategy.download(client, moment)
            opens = moment.phase == "open"
            payload, metrics = (routine.open(session), {}) if opens else routine.train(download, session)
            about = (client, len(session.train_set), metrics)
            self.uploads.append(Upload(payload.arrays, payload.texts, *about))

    def loss(self, client, download):
        """What the client's model makes of its test rows once it has taken in the download."""
        state = {name: value.copy() for name, value in self.states[client].items()}
        session = self.place.session(client, 2, state, "evaluate")
        self.place.setup.routine.evaluate(download, session)
        return self.place.model.loss(session.test_set)


@pytest.fixture(scope="module", params=METHODS)
def federation(request):
    made = Federation(request.param)
    made.round(1)
    yield request.param, made
    made.place.model.detach()


def with_ids(uploads, ids):
    return sorted(
        (replace(u, client_id=i) for u, i in zip(uploads, ids, strict=True)), key=lambda u: u.client_id
    )


def test_renaming_clients_changes_nothing_but_the_names(federation):
    _, made = federation
    straight, renamed = made.new_strategy(), made.new_strategy()
    straight.aggregate(1, made.uploads, [])
    ids = [2, 0, 3, 1]
    renamed.aggregate(1, with_ids(made.uploads, ids), [])
    for client, other in enumerate(ids):
        expected = made.loss(client, straight.download(client, TRAIN))
        assert made.loss(client, renamed.download(other, TRAIN)) == pytest.approx(expected, abs=2e-5)


def test_a_client_on_its_own_goes_on_from_what_it_trained(federation):
    name, made = federation
    skip_if_exempt(name, "memory")
    for upload in made.uploads[:2]:
        strategy = made.new_strategy()
        strategy.aggregate(1, [upload], [])
        trained = made.loss(upload.client_id, Payload())
        assert made.loss(upload.client_id, strategy.download(upload.client_id, TRAIN)) == pytest.approx(
            trained, abs=2e-5
        )


def test_of_equal_uploads_everybody_gets_that_one(federation):
    name, made = federation
    skip_if_exempt(name, "mean")
    strategy = made.new_strategy()
    first = made.uploads[0]
    sizes = (3, 50, 7, 11)  # weights that do not sum to 1 by themselves
    strategy.aggregate(1, [replace(first, client_id=k, num_examples=n) for k, n in enumerate(sizes)], [])
    trained = made.loss(0, Payload())
    for client in range(4):
        assert made.loss(0, strategy.download(client, TRAIN)) == pytest.approx(trained, abs=2e-5)


def test_what_others_trained_arrives(federation):
    name, made = federation
    skip_if_exempt(name, "arrival")
    strategy = made.new_strategy()
    strategy.aggregate(1, made.uploads, [])
    losses = [abs(made.loss(k, strategy.download(k, TRAIN)) - made.loss(k, Payload())) for k in range(4)]
    assert max(losses) > 1e-3


def test_all_but_me_never_sees_the_receivers_own_upload(federation):
    _, made = federation
    if not isinstance(made.strategy, AllButMe):
        pytest.skip("this method combines everybody")
    clean = made.new_strategy()
    clean.aggregate(1, made.uploads, [])
    for k, upload in enumerate(made.uploads):
        noise = {name: value + np.float32(1e4) for name, value in upload.arrays.items()}
        poisoned = made.new_strategy()
        poisoned.aggregate(1, [*made.uploads[:k], replace(upload, arrays=noise), *made.uploads[k + 1 :]], [])
        mine, others = poisoned.download(k, TRAIN).arrays, poisoned.download((k + 1) % 4, TRAIN).arrays
        for name, value in clean.download(k, TRAIN).arrays.items():
            assert (mine[name] == value).all(), name
        assert any((others[n] != v).any() for n, v in clean.download((k + 1) % 4, TRAIN).arrays.items())
