"""Mixing rules: which weight they find, on a model whose loss can be worked out by hand."""

import math

import numpy as np
import pytest

from fedapp.core.session import ClientSession
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.methods.mixing import AdaptiveMixing, GoldenSectionMixing, SoftmaxMixing
from fedapp.toy.adapter import Toy

NAME = "layer.0.prefix.weight"


def vectors(value):
    return {NAME: np.full(4, value, np.float32)}


def session(label=None, cost=None):
    """The toy's loss is (value - label)^2; ``cost`` puts a function of the mixed value in its place."""
    model = Toy(roles=["weight"]).attach(None, TrainConfig(), seed=1)
    val = [Example("p", "x", "t", label)] if label is not None or cost else []
    opened = ClientSession(0, 1, model, val, val, [Example("p", "x", "t", 9)], {}, np.random.default_rng(0))
    opened.tried = []

    def watched(examples):
        assert examples is opened.val_set, "only validation rows may be looked at"
        opened.tried.append(float(model.parameters()[NAME][0]))
        return cost(opened.tried[-1]) if cost else float((opened.tried[-1] - label) ** 2)

    model.loss = watched
    return opened


def test_a_golden_section_closes_in_on_the_least_loss():
    # Own 1, received 0: the mixed value is the weight itself; the loss is least at 0.3.
    mixed, weight = GoldenSectionMixing(evaluations=14).mix(vectors(1.0), vectors(0.0), session(label=0.3))
    assert weight == pytest.approx(0.3, abs=0.618**11)
    assert mixed[NAME] == pytest.approx(weight)


@pytest.mark.parametrize("evaluations", [4, 7])
def test_a_golden_section_costs_as_many_evaluations_as_it_says(evaluations):
    opened = session(label=0.3)
    GoldenSectionMixing(evaluations=evaluations).mix(vectors(1.0), vectors(0.0), opened)
    assert len(opened.tried) == evaluations
    assert {0.0, 1.0} <= set(opened.tried)


@pytest.mark.parametrize(("label", "weight"), [(0.0, 0.0), (1.0, 1.0)])
def test_a_golden_section_compares_the_ends_which_it_never_touches(label, weight):
    assert GoldenSectionMixing().mix(vectors(1.0), vectors(0.0), session(label=label))[1] == weight


@pytest.mark.parametrize("rule", [AdaptiveMixing(criterion="score"), GoldenSectionMixing(criterion="score")])
@pytest.mark.parametrize("best", [0.0, 1.0])
def test_a_score_is_looked_for_among_the_largest_and_on_validation_rows_alone(rule, best):
    opened = session(label=0.5)
    looked_at = []

    def metric(examples):
        looked_at.append(examples)
        return 1 - abs(float(opened.model.parameters()[NAME][0]) - best)

    opened.metric = metric
    assert rule.mix(vectors(1.0), vectors(0.0), opened)[1] == best
    assert looked_at
    assert all(examples is opened.val_set for examples in looked_at)
    assert opened.tried == []  # no loss was asked for


def test_the_rows_that_are_looked_at_are_not_those_that_are_trained_on():
    opened = session(label=0.0)
    opened.train_set = [Example("p", "x", "t", 1.0)]
    for rule in (AdaptiveMixing(), GoldenSectionMixing(), SoftmaxMixing(temperature=1e-3)):
        assert rule.mix(vectors(1.0), vectors(0.0), opened)[1] < 1e-6


def test_where_all_weights_are_equal_the_own_part_is_kept():
    flat = session(cost=lambda value: 2.0)
    assert GoldenSectionMixing().mix(vectors(1.0), vectors(0.0), flat)[1] == 1.0
    assert AdaptiveMixing().mix(vectors(1.0), vectors(0.0), flat)[1] == 1.0
    assert SoftmaxMixing().mix(vectors(1.0), vectors(0.0), flat)[1] == 0.5


def test_softmax_turns_the_two_losses_into_a_weight():
    # Losses: own (1 - 0.25)^2 = 0.5625, received 0.25^2 = 0.0625; sigmoid((0.0625 - 0.5625) / 0.5).
    mixed, weight = SoftmaxMixing(temperature=0.5).mix(vectors(1.0), vectors(0.0), session(label=0.25))
    assert weight == pytest.approx(1 / (1 + math.e))
    assert mixed[NAME] == pytest.approx(weight)


def test_softmax_survives_losses_of_any_size():
    far = session(cost=lambda value: 1e30 if value else 0.0)
    assert SoftmaxMixing(temperature=1e-6).mix(vectors(1.0), vectors(0.0), far)[1] == 0.0


@pytest.mark.parametrize("rule", [AdaptiveMixing(), GoldenSectionMixing(), SoftmaxMixing()])
def test_a_mix_without_a_finite_loss_is_not_taken(rule):
    broken = session(cost=lambda value: math.nan if value > 0.9 else value)
    assert rule.mix(vectors(1.0), vectors(0.0), broken)[1] == 0.0
    with pytest.raises(ClientFailure, match="finite"):
        rule.mix(vectors(1.0), vectors(0.0), session(cost=lambda value: math.inf))


@pytest.mark.parametrize("rule", [GoldenSectionMixing(), SoftmaxMixing()])
def test_a_rule_that_looks_at_validation_rows_needs_some(rule):
    assert rule.needs_validation
    with pytest.raises(ClientFailure, match=r"split\.val_share"):
        rule.mix(vectors(1.0), vectors(0.0), session())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GoldenSectionMixing(3), "^evaluations=3 must be a whole number of at least 4"),
        (lambda: GoldenSectionMixing(criterion="f1"), "^criterion='f1' must be one of: loss, score"),
        (lambda: SoftmaxMixing(0), "^temperature=0 must be a number greater than 0"),
    ],
)
def test_settings_are_checked(make, said):
    with pytest.raises(ValueError, match=said):
        make()
