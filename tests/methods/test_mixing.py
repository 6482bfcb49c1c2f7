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


def sampled(num_val=40, num_trained=60, seed=0):
    """A session of many validation rows, each with its own best value; keeps (value, rows) of every look.

    A row's loss is (value - label)^2 with labels 0.2 to 0.3, so each row prefers the weight 0.25 of the five.
    """
    opened = session(label=0.0)
    opened.rng = np.random.default_rng(seed)
    labels = np.linspace(0.2, 0.3, num_val)
    opened.val_set = [Example(f"row {i}", "x", "t", label) for i, label in enumerate(labels)]
    opened.train_set = [Example("p", "x", "t", 9.0)] * num_trained
    opened.looks = []

    def watched(examples):
        value = float(opened.model.parameters()[NAME][0])
        opened.looks.append((value, [example.prompt for example in examples]))
        return float(np.mean([(value - example.label) ** 2 for example in examples]))

    opened.model.loss = watched
    return opened


def rows_looked_at(opened):
    return sum(len(rows) for _, rows in opened.looks)


RULES = [AdaptiveMixing(), GoldenSectionMixing(), SoftmaxMixing(), AdaptiveMixing(candidates=[0.0, 0.5])]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows_per_round", [None, 30, 120])
def test_a_search_keeps_to_its_share_of_the_training(rule, rows_per_round):
    opened = sampled()
    opened.rows_per_round = rows_per_round
    rule.mix(vectors(1.0), vectors(0.0), opened)
    allowed = 0.25 * 3 * (rows_per_round or 60)
    # Below the budget by less than a row for each weight and stage.
    assert min(allowed, 2 * 40) - 3 * 7 < rows_looked_at(opened) <= allowed


@pytest.mark.parametrize("rule", RULES)
def test_no_weight_sees_a_row_twice_and_all_see_the_same_rows_first(rule):
    opened = sampled()
    rule.mix(vectors(1.0), vectors(0.0), opened)
    seen = {}
    for value, rows in opened.looks:
        seen.setdefault(value, []).extend(rows)
    longest = max(seen.values(), key=len)
    for rows in seen.values():
        assert rows == longest[: len(rows)]
        assert len(set(rows)) == len(rows)
    assert longest != [example.prompt for example in opened.val_set[: len(longest)]]  # drawn, not the first


def test_halving_shows_the_better_half_more_rows():
    # 45 forward rows in three stages of 15: 5 weights see 3, the best 3 see 5 more, the best 2 see 7 more.
    opened = sampled()
    assert AdaptiveMixing().mix(vectors(1.0), vectors(0.0), opened)[1] == 0.25
    counts = {}
    for value, rows in opened.looks:
        counts[value] = counts.get(value, 0) + len(rows)
    assert counts == {1.0: 3, 0.75: 3, 0.5: 8, 0.0: 15, 0.25: 15}


def with_losses(opened, loss):
    """Give the session's model a loss by value and by place of the row in the order of the looks."""
    order = np.random.default_rng(0).permutation(len(opened.val_set)).tolist()
    places = {f"row {row}": place for place, row in enumerate(order)}

    def mean(examples):
        value = float(opened.model.parameters()[NAME][0])
        return float(np.mean([loss(value, places[example.prompt]) for example in examples]))

    opened.model.loss = mean
    return opened


def test_the_choice_is_by_the_mean_over_all_stages():
    # Stages of 1, 1 and 3 rows. Weight 0 is far better on the first row and a little worse on the others: its
    # mean (-9 + 4 x 1.1) / 5 is the least, though weight 1 wins the last stage.
    losses = {0.0: lambda place: 1.1 if place else -9.0, 1.0: lambda place: 1.0}
    opened = sampled(num_val=20, num_trained=20)
    with_losses(opened, lambda value, place: losses.get(value, lambda place: 5.0)(place))
    assert AdaptiveMixing().mix(vectors(1.0), vectors(0.0), opened)[1] == 0.0


def test_a_weight_that_left_early_does_not_win_by_easier_rows():
    # Later rows cost everybody 100 more, which raises the means of those that see them.
    opened = sampled(num_val=20, num_trained=20)
    with_losses(opened, lambda value, place: abs(value - 0.25) + (100 if place else 0))
    assert AdaptiveMixing().mix(vectors(1.0), vectors(0.0), opened)[1] == 0.25


@pytest.mark.parametrize("budget", [None, 4.0])
@pytest.mark.parametrize("make", [AdaptiveMixing, GoldenSectionMixing, SoftmaxMixing])
def test_a_budget_that_reaches_looks_at_all_rows_as_they_stand(make, budget):
    opened = sampled()
    make(budget=budget).mix(vectors(1.0), vectors(0.0), opened)
    everything = [example.prompt for example in opened.val_set]
    assert all(rows == everything for _, rows in opened.looks)
    assert opened.rng.random() == np.random.default_rng(0).random()  # nothing was drawn


def test_a_budget_below_a_row_still_looks_at_one():
    opened = sampled()
    AdaptiveMixing(budget=1e-6).mix(vectors(1.0), vectors(0.0), opened)
    assert [len(rows) for _, rows in opened.looks] == [1] * 5


def test_a_score_is_taken_once_on_equally_many_rows():
    opened = sampled()
    counts = []
    opened.metric = lambda examples: counts.append(len(examples)) or 0.0
    AdaptiveMixing(criterion="score").mix(vectors(1.0), vectors(0.0), opened)
    assert counts == [9] * 5  # 45 forward rows


def test_a_weight_that_breaks_on_later_rows_is_not_chosen():
    opened = sampled()
    plain = opened.model.loss

    def loss(examples):
        before = any(value == 0.25 for value, _ in opened.looks)
        value = plain(examples)
        return math.inf if before and opened.looks[-1][0] == 0.25 else value

    opened.model.loss = loss
    assert AdaptiveMixing().mix(vectors(1.0), vectors(0.0), opened)[1] == 0.0


@pytest.mark.parametrize("make", [AdaptiveMixing, GoldenSectionMixing, SoftmaxMixing])
def test_a_budget_must_be_positive(make):
    with pytest.raises(ValueError, match="^budget=0 must be a number greater than 0"):
        make(budget=0)


@pytest.mark.parametrize(("settings", "rows"), [({}, 10), ({"num_epochs": 3}, 30), ({"max_steps": 2}, 8)])
def test_a_round_passes_its_epochs_or_its_capped_steps(settings, rows):
    assert TrainConfig(batch_size=4, **settings).rows_per_round(10) == rows
