"""Two rounds with different participants: what the server sends rests on the last round's uploads alone."""

import numpy as np
import pytest

from fedapp.aggregation import GeometricMedian, Mean
from fedapp.aggregation.median import CoordinateMedian
from fedapp.core.payload import Upload
from fedapp.core.sampling import sample
from fedapp.methods.fed_sb import SharedSubspace
from fedapp.methods.ifed_icl.server import ContextAggregation
from fedapp.methods.parameter_sharing import AllButMe, Average
from fedapp.methods.products.server import ExactAverage, Redistribute, Stack
from tests.server_side import TRAIN, begin

RULES = [Mean(), Mean(weighting="examples"), GeometricMedian(), CoordinateMedian()]


def upload(client_id, value, num_examples=1, name="w", shape=(1,)):
    return Upload({name: np.full(shape, value, np.float32)}, {}, client_id, num_examples, {})


def low_rank(client_id, a, b, num_examples=1):
    arrays = {"x.lora_A": [[a, 0.0]], "x.lora_B": [[b], [0.0]], "head.weight": [a]}
    return Upload({n: np.array(v, np.float32) for n, v in arrays.items()}, {}, client_id, num_examples, {})


def equal(left, right):
    assert set(left) == set(right)
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_an_average_is_that_of_this_rounds_clients(rule):
    strategy, fresh = Average(rule), Average(rule)
    strategy.aggregate(1, [upload(0, 100.0, 5), upload(1, -70.0, 9)], [])
    last = [upload(1, 2.0, 3), upload(2, 4.0), upload(3, 9.0)]
    strategy.aggregate(2, last, [])
    fresh.aggregate(1, last, [])
    for client in range(4):
        equal(strategy.download(client, TRAIN).arrays, fresh.download(client, TRAIN).arrays)
    equal(strategy.shared(), fresh.shared())


def test_an_average_by_hand():
    strategy = Average(Mean(weighting="examples"))
    strategy.aggregate(1, [upload(0, 100.0, 5), upload(1, -70.0, 9)], [])
    strategy.aggregate(2, [upload(1, 2.0, 3), upload(2, 4.0, 1)], [])
    assert strategy.download(0, TRAIN).arrays["w"] == [2.5]  # (2 * 3 + 4 * 1) / 4


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_others_are_those_of_this_round(rule):
    strategy, fresh = AllButMe(rule), AllButMe(rule)
    strategy.aggregate(1, [upload(0, 100.0), upload(1, -70.0), upload(3, 8.0)], [])
    equal(strategy.shared(), strategy.download(2, TRAIN).arrays)  # asked once, it is remembered
    last = [upload(1, 2.0), upload(2, 4.0), upload(3, 9.0)]
    strategy.aggregate(2, last, [])
    fresh.aggregate(1, last, [])
    for client in range(4):
        equal(strategy.download(client, TRAIN).arrays, fresh.download(client, TRAIN).arrays)


def test_the_others_by_hand():
    strategy = AllButMe(Mean())
    strategy.aggregate(1, [upload(0, 100.0), upload(1, -70.0)], [])
    assert strategy.shared()["w"] == [15.0]
    strategy.aggregate(2, [upload(1, 2.0), upload(2, 4.0), upload(3, 9.0)], [])
    found = [float(strategy.download(client, TRAIN).arrays["w"][0]) for client in range(4)]
    assert found == [5.0, 6.5, 5.5, 3.0]  # client 0 was not asked: the mean of all three


def test_the_trained_matrices_of_a_subspace_are_those_of_this_round():
    strategy = SharedSubspace(Mean(weighting="examples"))
    factors = {"x.sb_B": np.ones((3, 1), np.float32), "x.sb_A": np.ones((1, 2), np.float32)}
    strategy.open([Upload(factors, {}, client, 1, {}) for client in range(3)])
    strategy.aggregate(1, [upload(0, 100.0, 5, "x.sb_R", (1, 1)), upload(1, -70.0, 9, "x.sb_R", (1, 1))], [])
    strategy.aggregate(2, [upload(1, 2.0, 3, "x.sb_R", (1, 1)), upload(2, 4.0, 1, "x.sb_R", (1, 1))], [])
    assert strategy.download(1, TRAIN).arrays["x.sb_R"].tolist() == [[2.5]]


def test_coefficients_are_those_of_this_round_and_vectors_those_of_the_first():
    strategy = ContextAggregation(Mean())
    begin(strategy)
    for server_round, (name, values) in enumerate(
        [
            ("context-vectors", {0: 2.0, 1: 4.0}),
            ("coefficients", {0: 100.0, 1: -70.0}),
            ("coefficients", {1: 2.0, 2: 4.0}),
        ],
        start=1,
    ):
        strategy.aggregate(server_round, [upload(c, v, 1, name) for c, v in values.items()], [])
    assert strategy.download(3, TRAIN).arrays["coefficients"] == [3.0]
    assert strategy.download(3, TRAIN).arrays["context-vectors"] == [3.0]


def test_a_client_that_was_asked_in_vain_gets_the_vectors_again():
    strategy = ContextAggregation(Mean())
    begin(strategy)
    strategy.aggregate(1, [upload(c, 2.0, 1, "context-vectors") for c in (0, 1, 2)], [])
    strategy.aggregate(2, [upload(c, 1.0, 1, "coefficients") for c in (0, 1)], [])
    strategy.aggregate(3, [upload(0, 1.0, 1, "coefficients")], [1])
    lacking = [c for c in range(4) if "context-vectors" in strategy.download(c, TRAIN).arrays]
    assert lacking == [1, 2, 3]


FIRST = [low_rank(0, 100.0, 7.0, 5), low_rank(1, -70.0, 3.0, 9)]
SECOND = [low_rank(1, 2.0, 1.0, 3), low_rank(2, 4.0, 5.0, 1)]


@pytest.mark.parametrize("kind", [Stack, ExactAverage, Redistribute])
def test_products_are_those_of_this_round(kind):
    strategy, fresh = kind(), kind()
    strategy.aggregate(1, FIRST, [])
    strategy.aggregate(2, SECOND, [])
    fresh.aggregate(1, SECOND, [])

    def renamed(arrays, number):
        return {name.replace(f"update-{number}/", "update/"): value for name, value in arrays.items()}

    # A client that took part in round 2 has update 1, where there are updates to merge.
    equal(
        renamed(strategy.download(2, TRAIN).arrays, 2),
        renamed(fresh.download(2, TRAIN).arrays, 1),
    )
    assert strategy.download(2, TRAIN).arrays["head.weight"] == [2.5]  # (2 * 3 + 4 * 1) / 4


def test_the_sum_of_products_by_hand():
    strategy = Stack()
    strategy.aggregate(1, FIRST, [])
    strategy.aggregate(2, SECOND, [])
    # Round 2 alone: (3 * 1 * 2 + 1 * 5 * 4) / 4 = 6.5; both: (5 * 7 * 100 - 9 * 3 * 70) / 14 = 115 more.
    last = strategy.download(2, TRAIN).arrays
    assert (last["update-2/x.lora_B"] @ last["update-2/x.lora_A"])[0, 0] == pytest.approx(6.5)
    assert strategy.shared()["x.merged"][0, 0] == pytest.approx(121.5)
    # Whoever was not there gets both; who was there in round 1 alone has not confirmed that it merged it.
    for client in (0, 3):
        names = {name.split("/")[0] for name in strategy.download(client, TRAIN).arrays}
        assert names == {"update-1", "update-2", "head.weight"}


def test_another_draw_of_clients_in_every_round():
    draws = [tuple(sample(range(20), 5, 1, server_round)) for server_round in range(1, 9)]
    assert len(set(draws)) == 8
    assert all(list(drawn) == sorted(set(drawn)) and len(drawn) == 5 for drawn in draws)
    assert tuple(sample(range(20), 5, 2, 1)) != draws[0]
    assert sample(range(3), 0, 1, 1) == sample(range(3), 9, 1, 1) == [0, 1, 2]
