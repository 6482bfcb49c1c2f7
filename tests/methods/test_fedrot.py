"""FedRot-LoRA: what rotating before averaging saves, and when it rotates by which factor."""

import numpy as np
import pytest
from scipy.stats import special_ortho_group

from fedapp.aggregation import Mean
from fedapp.aggregation.low_rank import product
from fedapp.config.compose import load_config
from fedapp.core.payload import Upload
from fedapp.methods.fedrot import RotatedAverage
from fedapp.methods.parameter_sharing import Average
from fedapp.planning.budget import budget_of

MEAN = Mean(weighting="examples")


def uploads(*pairs, head=0.0):
    return [
        Upload(
            arrays={
                "x.lora_A": np.asarray(a, np.float32),
                "x.lora_B": np.asarray(b, np.float32),
                "head.bias": np.full(2, head + index, np.float32),
            },
            client_id=index,
            num_examples=1 + 2 * index,
        )
        for index, (a, b) in enumerate(pairs)
    ]


def drawn(seed=0, rank=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rank, 8)), rng.normal(size=(6, rank))


def turned(pair, seed):
    turn = special_ortho_group.rvs(len(pair[0]), random_state=seed)
    return turn @ pair[0], pair[1] @ turn.T


@pytest.mark.parametrize("factor", ["A", "B", "alternate"])
@pytest.mark.parametrize("second", [2, 3])
def test_clients_that_differ_by_a_rotation_only_keep_their_common_product(factor, second):
    common = drawn()
    apart = uploads(*(turned(common, seed) for seed in (1, 2, 3)))
    strategies = RotatedAverage(MEAN, factor), Average(MEAN)
    products = []
    for strategy in strategies:
        strategy.aggregate(1, uploads(common), [])
        strategy.aggregate(second, apart, [])
        products.append(product([strategy.shared()])["x.merged"])
    expected = common[1] @ common[0]
    np.testing.assert_allclose(products[0], expected, atol=1e-5)
    assert np.abs(products[1] - expected).max() > 0.5  # the plain mean of the factors


def test_by_hand_of_two_clients_a_quarter_turn_apart():
    # The reference is (I, I). The second client holds the same product I as (turn, turn^T): weights 1 and 3
    # would average A to (I + 3 turn) / 4, whose product with B's mean is (10 I) / 16.
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    strategy, plain = RotatedAverage(MEAN), Average(MEAN)
    for one in (strategy, plain):
        one.aggregate(1, uploads((np.eye(2), np.eye(2))), [])
        one.aggregate(2, uploads((np.eye(2), np.eye(2)), (turn, turn.T)), [])
    np.testing.assert_allclose(strategy.shared()["x.lora_A"], np.eye(2), atol=1e-7)
    np.testing.assert_allclose(product([plain.shared()])["x.merged"], np.eye(2) * 10 / 16, atol=1e-7)


def test_the_first_round_and_a_weight_of_nought_are_fedit():
    first, second = [uploads(drawn(seed), drawn(seed + 1), head=seed) for seed in (0, 5)]
    plain, none, rotated = Average(MEAN), RotatedAverage(MEAN, rotation_weight=0.0), RotatedAverage(MEAN)
    for strategy in (plain, none, rotated):
        strategy.aggregate(1, first, [])
    assert all((rotated.shared()[name] == value).all() for name, value in plain.shared().items())
    for strategy in (plain, none, rotated):
        strategy.aggregate(2, second, [])
    for name, value in plain.shared().items():
        np.testing.assert_allclose(none.shared()[name], value, atol=1e-6)
    assert np.abs(rotated.shared()["x.lora_A"] - plain.shared()["x.lora_A"]).max() > 0.1
    assert (rotated.shared()["head.bias"] == plain.shared()["head.bias"]).all()


@pytest.mark.parametrize(("server_round", "same"), [(2, "A"), (3, "B"), (4, "A")])
def test_even_rounds_go_by_a_and_odd_ones_by_b(server_round, same):
    results = {}
    for factor in ("A", "B", "alternate"):
        strategy = RotatedAverage(MEAN, factor)
        strategy.aggregate(1, uploads(drawn(0)), [])
        strategy.aggregate(server_round, uploads(drawn(1), drawn(2)), [])
        results[factor] = strategy.shared()["x.lora_A"]
    assert (results["alternate"] == results[same]).all()
    assert (results["A"] != results["B"]).any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"factor": "C"}, "^factor='C' must be one of: A, B, alternate"),
        ({"rotation_weight": 1.5}, "^rotation_weight=1.5 must be a number within"),
        ({"reflections": 1}, "^reflections=1 must be"),
        ({"combine": None}, "^combine=null must be"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(ValueError, match=said):
        RotatedAverage(**{"combine": MEAN} | settings)


def test_it_costs_what_fedit_costs():
    sizes = []
    for method in ("fedit", "fedrot_lora"):
        config = load_config([f"method={method}"])
        sizes.append(budget_of(config))
    assert sizes[0] == sizes[1]
