"""Votes that count by how likely a client finds its own answer."""

import math

import pytest

from fedapp.config.run import RunSettings
from fedapp.core.payload import Upload
from fedapp.methods.consensus.client import BehaviourSharing
from fedapp.methods.consensus.server import SemanticConsensus
from fedapp.methods.consensus.votes import MajorityVote
from tests.methods.consensus.test_own_kind import PUBLIC, upload
from tests.server_side import begin


def rated(client_id, answer, likelihood, **settings):
    made = upload(client_id, answer, **settings)
    told = {"likelihoods": ["" if likelihood is None else f"{math.log(likelihood):.4f}"]}
    return Upload({}, made.texts | told, client_id, made.num_examples, {})


def verdict(*uploads, quorum=0.5, **settings):
    strategy = SemanticConsensus(MajorityVote(quorum=quorum), weighting="likelihood", **settings)
    told = begin(strategy, PUBLIC)
    strategy.aggregate(1, list(uploads), [])
    return strategy.labels.get(0), told.rows[0]["agreement"]


def test_one_sure_client_outvotes_two_that_guess():
    label, share = verdict(rated(0, "right", 0.9), rated(1, "wrong", 0.2), rated(2, "wrong", 0.3))
    assert label == "right"
    assert share == pytest.approx(0.9 / 1.4, abs=1e-4)
    assert verdict(rated(0, "right", 0.4), rated(1, "wrong", 0.2), rated(2, "wrong", 0.3))[0] == "wrong"


def test_who_does_not_say_counts_like_the_mean_of_those_who_do():
    _, share = verdict(rated(0, "a", 0.6), rated(1, "b", 0.2), rated(2, "a", None))
    assert share == pytest.approx((0.6 + 0.4) / 1.2, abs=1e-4)
    assert verdict(rated(0, "a", None), rated(1, "a", None), rated(2, "b", None))[1] == pytest.approx(2 / 3)


def test_a_boast_and_an_impossible_answer_stay_within_bounds():
    label, share = verdict(rated(0, "a", 1.0), rated(1, "b", 1e-30), quorum=0.0)
    assert label == "a"
    assert 0.999 < share < 1


def test_specialists_share_comes_on_top_of_likelihoods():
    expert = rated(0, "right", 0.5, marks="1")
    assert verdict(expert, rated(1, "wrong", 1.0), rated(2, "wrong", 1.0))[0] == "wrong"
    label, share = verdict(expert, rated(1, "wrong", 1.0), rated(2, "wrong", 1.0), specialist_share=0.6)
    assert (label, share) == ("right", pytest.approx(0.6))


def test_likelihoods_that_nobody_sends_are_refused_before_the_run():
    strategy = SemanticConsensus(MajorityVote(), weighting="likelihood")
    with pytest.raises(ValueError, match=r"strategy.weighting='likelihood' .*likelihoods=true"):
        strategy.check(RunSettings(num_clients=4), BehaviourSharing())
    strategy.check(RunSettings(num_clients=4), BehaviourSharing(likelihoods=True))
