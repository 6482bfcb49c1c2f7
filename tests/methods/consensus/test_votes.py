"""How a prompt is decided: by meaning, or by equal labels."""

import numpy as np
import pytest

from fedapp.methods.consensus.clustering import Clustering
from fedapp.methods.consensus.votes import Ballot, MajorityVote, SemanticVote


class Dictionary:
    """Puts texts on a circle by the degrees that stand first in them, and counts what it is asked."""

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        angles = np.deg2rad([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def semantic(**settings):
    return SemanticVote(Dictionary(), Clustering(threshold=settings.pop("threshold", 0.9)), **settings)


def ballot(*texts, weights=None, rated=()):
    return Ballot(texts, tuple(weights or [1.0] * len(texts)), tuple(rated))


def decide(vote, *ballots, total=None, labels=()):
    return vote.decide(ballots, total or max(sum(b.weights) for b in ballots), labels)


@pytest.mark.parametrize("representative", ["medoid", "centroid", "likelihood"])
@pytest.mark.parametrize("kind", ["agglomerative", "components", "dbscan", "none"])
def test_clients_who_all_say_the_same_get_that_text(kind, representative):
    vote = SemanticVote(Dictionary(), Clustering(kind), representative, quorum=1.0)
    (verdict,) = decide(vote, ballot(*["10 same"] * 5))
    assert (verdict.text, verdict.agreement, verdict.sizes) == ("10 same", 1.0, (5,))


def test_the_largest_cluster_wins_with_a_clients_own_words():
    (verdict,) = decide(semantic(), ballot("0 a", "90 far", "4 b", "2 c", "91 far too"))
    assert (verdict.text, verdict.agreement, verdict.sizes) == ("2 c", 0.6, (3, 2))


def test_a_prompt_below_the_quorum_is_dropped():
    mixed = ballot("0 a", "1 b", "90 c", "180 d", "270 e")
    assert decide(semantic(quorum=0.4), mixed)[0].text == "0 a"
    verdict = decide(semantic(quorum=0.5), mixed)[0]
    assert (verdict.text, verdict.agreement) == (None, 0.4)


def test_a_share_that_equals_the_quorum_reaches_it():
    assert decide(semantic(quorum=1 / 3), ballot("0 a", "1 b", *["90", "120", "180", "240"]))[0].text == "0 a"


def test_all_disagreeing_is_no_consensus_even_of_two():
    assert decide(semantic(), ballot("0 a", "90 b"))[0].text is None
    assert decide(semantic(min_votes=1), ballot("0 a", "90 b"))[0].text == "0 a"
    assert decide(semantic(quorum=0.0), ballot("0 a", "90 b", "180 c"))[0].text is None


def test_a_lone_answer_does_not_decide_for_those_who_abstain():
    vote = semantic(min_votes=1)
    assert decide(vote, ballot("0 lone"), total=4.0)[0].text is None
    assert decide(vote, ballot("0 lone"), total=1.0)[0].text == "0 lone"


def test_a_prompt_without_answers_is_dropped():
    verdict = decide(semantic(quorum=0.0), ballot(), total=3.0)[0]
    assert (verdict.text, verdict.agreement, verdict.sizes) == (None, 0.0, ())


def test_votes_may_be_weighted():
    texts = ("0 a", "1 a", "90 b")
    assert decide(semantic(min_votes=1), ballot(*texts))[0].text == "0 a"
    assert decide(semantic(min_votes=1), ballot(*texts, weights=[1, 1, 7]))[0].text == "90 b"


def test_the_medoid_counts_its_members_by_their_votes():
    # Cosines of 0, 10 and 25 degrees: 0.985, 0.906 (ends), 0.966. Even votes: 10 is in the middle.
    texts = ("0 a", "10 b", "25 c")
    assert decide(semantic(), ballot(*texts))[0].text == "10 b"
    # 0: 1 + 9 * 0.906 + 0.985 = 10.14; 10: 0.985 + 1 + 9 * 0.966 = 10.68; 25: 0.906 + 0.966 + 9 = 10.87
    assert decide(semantic(), ballot(*texts, weights=[1, 1, 9]))[0].text == "25 c"
    assert decide(semantic(), ballot(*texts, weights=[9, 1, 1]))[0].text == "0 a"


def test_the_quorum_counts_votes_not_voters():
    texts, weights = ("0 a", "1 b", "90 c"), [3, 3, 4]
    verdict = decide(semantic(quorum=0.6), ballot(*texts, weights=weights))[0]
    assert (verdict.text, verdict.agreement) == ("0 a", pytest.approx(0.6))
    assert decide(semantic(quorum=0.61), ballot(*texts, weights=weights))[0].text is None
    labelled = ballot("x", "x", "y", weights=weights)
    assert decide(MajorityVote(quorum=0.6), labelled)[0].agreement == pytest.approx(0.6)
    assert decide(MajorityVote(quorum=0.61), labelled)[0].text is None
    assert decide(MajorityVote(), ballot("x", "x", "y", weights=[1, 1, 3]))[0].text == "y"


def test_each_different_answer_to_a_contested_prompt_is_embedded_once():
    vote = semantic()
    decide(vote, ballot("0 a", "0 a", "5 b"), ballot("5 b", "0 a"), ballot("7 agreed", "7 agreed"))
    assert vote.embedder.asked == [["0 a", "5 b"]]


def test_the_most_likely_answer_of_the_cluster_may_speak_for_it():
    answers = ("0 a", "4 b", "2 c", "90 sure")
    rated = (-3.0, -1.0, -2.0, -0.1)
    assert decide(semantic(representative="likelihood"), ballot(*answers, rated=rated))[0].text == "4 b"
    nan = float("nan")
    assert decide(semantic(representative="likelihood"), ballot(*answers, rated=[nan] * 4))[0].text == "2 c"


def test_the_majoritys_label_wins_and_ties_go_to_the_smallest_label_id():
    labels = ("negative", "neutral", "positive")
    verdict = decide(MajorityVote(), ballot("positive", "negative", "positive"), labels=labels)[0]
    assert (verdict.text, verdict.agreement, verdict.sizes) == ("positive", pytest.approx(2 / 3), (2, 1))
    tied = ballot("positive", "neutral", "positive", "neutral", "negative")
    assert decide(MajorityVote(), tied, labels=labels)[0].text == "neutral"
    assert decide(MajorityVote(), tied, labels=labels[::-1])[0].text == "positive"


def test_the_vote_is_that_of_bincount():
    rng = np.random.default_rng(0)
    labels = tuple("dacb")
    for _ in range(200):
        ids = rng.integers(4, size=rng.integers(1, 8))
        (verdict,) = decide(MajorityVote(), ballot(*(labels[i] for i in ids)), labels=labels)
        assert verdict.text == labels[np.bincount(ids, minlength=4).argmax()]


def test_a_qualified_majority_drops_what_falls_short():
    four_of_five = ballot(*["x"] * 4, "y")
    assert decide(MajorityVote(quorum=0.8), four_of_five)[0].text == "x"
    assert decide(MajorityVote(quorum=0.9), four_of_five)[0].text is None


def test_an_answer_that_is_no_label_counts_for_nobody_but_against_the_quorum():
    votes = ballot("spam", "spam", "spam", "no", "no")
    verdict = decide(MajorityVote(), votes, labels=("yes", "no"))[0]
    assert (verdict.text, verdict.agreement) == ("no", 0.4)
    assert decide(MajorityVote(), ballot("spam"), labels=("yes", "no"))[0].text is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: semantic(representative="mean"), "representative='mean' must be one of"),
        (lambda: semantic(quorum=1.2), "quorum=1.2 must be a share of the votes within"),
        (lambda: MajorityVote(min_votes=0), "min_votes=0 must be"),
    ],
)
def test_settings_that_cannot_be_used_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
