"""What a client's session holds: its own rows, the run's initial parameters, random numbers of its own."""

from itertools import combinations

import numpy as np
import pytest

from fedapp.client.rows import SplitConfig
from fedapp.client.workplace import Workplace, close, workplace
from fedapp.config.compose import load_config
from tests.federation import TOY


@pytest.fixture(scope="module")
def place():
    made = Workplace(load_config([*TOY, "split.val_share=0.2"]))
    yield made
    made.model.detach()


def drawn(place, client_id=0, server_round=1, phase="train"):
    return place.session(client_id, server_round, {}, phase).rng.random(4).tolist()


def test_a_session_has_the_clients_rows_each_split_in_its_place(place):
    session, data = place.session(1, 1, {}, "train"), place.setup.data(1)
    assert place.setup.split == SplitConfig(val_share=0.2)
    assert (session.train_set, session.val_set, session.test_set) == (data.train, data.val, data.test)
    assert {example.prompt.split()[0] for example in session.train_set + session.val_set} == {"train"}
    assert {example.prompt.split()[0] for example in session.test_set} == {"test"}
    assert not set(session.train_set) & set(session.val_set)


def test_random_numbers_follow_client_round_and_purpose_and_nothing_else(place):
    asked = [(0, 1, "train"), (1, 1, "train"), (0, 2, "train"), (0, 1, "evaluate")]
    for one, other in combinations([drawn(place, *arguments) for arguments in asked], 2):
        assert one != other
    assert drawn(place) == drawn(place)
    other_seed = Workplace(load_config([*TOY, "seed=2"]))
    assert drawn(other_seed) != drawn(place)
    other_seed.model.detach()


def test_a_session_opens_with_the_runs_initial_parameters_whatever_the_last_one_left(place):
    first = place.session(0, 1, {}, "train").model.parameters()
    place.model.load({name: value + 1 for name, value in first.items()})
    again = place.session(0, 2, {}, "train").model.parameters()
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)


def test_the_metric_of_a_session_is_the_benchmarks_main_one_of_the_model_as_it_stands(place):
    session = place.session(0, 1, {}, "train")
    for label in (0, 3):
        session.model.load(
            {n: np.full(v.shape, label, v.dtype) for n, v in session.model.parameters().items()}
        )
        share = np.mean([example.label == label for example in session.val_set])
        assert session.measure(session.val_set) == pytest.approx(share)


def test_a_client_with_settings_of_its_own_gets_its_own_model_and_the_others_data():
    mixed = load_config([*TOY, "method=local", "by_client=['adapter.size=4','adapter.size=6']"]).to_json()
    try:
        places = [workplace(mixed, client_id) for client_id in range(4)]
    finally:
        close()
    sizes = [{value.size for value in place.model.parameters().values()} for place in places]
    assert sizes == [{4}, {6}, {4}, {6}]
    assert all(place.setup.benchmark is places[0].setup.benchmark for place in places)


def test_a_session_says_how_many_rows_its_training_passes():
    place = Workplace(load_config([*TOY, "train.num_epochs=3"]))
    session = place.session(0, 1, {}, "train")
    assert session.trained_rows == 3 * len(session.train_set)
