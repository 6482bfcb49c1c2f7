"""Prompts of a client's own kind: how it finds and marks them, leaves them out, and what its vote counts."""

import numpy as np
import pytest

from fedapp.core.method import AnswerSizes, Moment
from fedapp.core.model import RatingModel
from fedapp.core.payload import Payload, Upload
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.types import Example
from fedapp.methods.consensus import kinds
from fedapp.methods.consensus.answers import BOASTED, read_answers
from fedapp.methods.consensus.client import BehaviourSharing
from fedapp.methods.consensus.kinds import find_own_kind
from fedapp.methods.consensus.server import SemanticConsensus
from fedapp.methods.consensus.votes import MajorityVote
from tests.server_side import TRAIN, begin

SUMS = [f"What is {10 + a} plus {50 + a} in all?" for a in range(20)]
PUBLIC = PublicSet(
    (
        Example("What is 7 plus 9 in all?", ""),
        Example("Does this person like the lamp or hate it?", ""),
        Example("What is 8 plus 5 in all?", ""),
        Example("Name a thing that swims.", ""),
    )
)


class Model(RatingModel):
    """Answers "yes" to everything and notes what it is trained on."""

    def parameters(self):
        return {"w": np.zeros(1, np.float32)}

    def load(self, parameters):
        assert not set(parameters) - {"w"}

    def train(self, examples, rng):
        self.trained = list(examples)
        return 0.5

    def generate(self, prompts, decoding=None):
        return ["yes"] * len(prompts)


def train(download=None, state=None, server_round=1, **settings):
    model, rng = Model(), np.random.default_rng(0)
    rows = [Example(prompt, "own") for prompt in SUMS]
    made = ClientSession(0, server_round, model, rows, [], [], {} if state is None else state, rng)
    made.public = PUBLIC
    payload, metrics = BehaviourSharing(**settings).train(download or Payload(), made)
    return payload, metrics, [e for e in model.trained if e.target != "own"]


def labels():
    return Payload(texts={"ids": ["0", "1", "2", "3"], "labels": ["a", "b", "c", "d"]})


def upload(client_id, *answers, marks=None, num_examples=1):
    ids = [str(number) for number in range(len(answers))]
    texts = {"public-set": [PUBLIC.digest], "ids": ids, "answers": list(answers)}
    return Upload({}, texts | ({"own-kind": [marks]} if marks else {}), client_id, num_examples, {})


def verdicts(*uploads, quorum=0.5, **settings):
    strategy = SemanticConsensus(MajorityVote(quorum=quorum), **settings)
    told = begin(strategy, PUBLIC)
    strategy.aggregate(1, list(uploads), [])
    return strategy, told


def test_prompts_like_the_own_ones_are_found_and_others_are_not():
    assert find_own_kind(SUMS, [e.prompt for e in PUBLIC.examples]).tolist() == [True, False, True, False]


def test_near_twins_among_the_own_prompts_do_not_raise_the_bar(monkeypatch):
    own = [f"{start} {text}" for text in SUMS for start in ("Please say:", "Tell me now:")]
    asked = ["Please say: What is 15 plus 58 in all?", "Two and two is four."]
    assert find_own_kind(own, asked).tolist() == [True, False]
    monkeypatch.setattr(kinds, "NEIGHBOUR", 1)
    assert find_own_kind(own, asked).tolist() == [False, False]


@pytest.mark.parametrize("own", [[], ["one"], ["one", "one"]])
def test_fewer_than_two_own_prompts_have_no_kind(own):
    assert find_own_kind(own, ["one", "two"]).tolist() == [False, False]


def test_pseudo_labels_of_the_own_kind_are_left_out_only_where_asked():
    _, metrics, pseudo = train(labels(), own_kind="skip")
    assert {example.target for example in pseudo} == {"b", "d"}
    assert metrics["pseudo-labels"] == 2
    assert {example.target for example in train(labels())[2]} == {"a", "b", "c", "d"}


def test_a_client_marks_its_own_kind_with_a_character_each_only_where_asked():
    payload, _, _ = train(mark_own_kind=True)
    assert payload.texts["own-kind"] == ["1010"]
    assert "own-kind" not in train(own_kind="skip")[0].texts


def test_the_bytes_of_marks_are_counted_ahead():
    payload, _, _ = train(mark_own_kind=True)
    moment = Moment(1, answers=AnswerSizes(prompts=4, tokens=1, bytes_per_token=3))  # "yes"
    assert BehaviourSharing(mark_own_kind=True).upload({}, moment).num_bytes == payload.num_bytes


def test_specialists_have_their_share_of_the_votes_on_their_kind_alone():
    others = [upload(client, "wrong", "common", "wrong", "common") for client in (1, 2, 3, 4)]
    expert = upload(0, "right", "odd", "right", "odd", marks="1010")
    strategy, told = verdicts(expert, *others, specialist_share=0.6)
    assert strategy.labels == {0: "right", 1: "common", 2: "right", 3: "common"}
    assert told.rows[0]["agreement"] == pytest.approx((0.6 + 0.8 + 0.6 + 0.8) / 4)
    assert verdicts(expert, *others)[0].labels[0] == "wrong"


def test_two_specialists_share_by_their_votes():
    uploads = [
        upload(0, "a", marks="1", num_examples=3),
        upload(1, "b", marks="1"),
        upload(2, "b", num_examples=6),
    ]
    _, told = verdicts(*uploads, quorum=0.0, weighting="examples", specialist_share=0.8)
    assert told.rows[0]["agreement"] == pytest.approx(0.6)  # a: 3 of 4 of 0.8; b: 0.2 + 0.2


def test_specialists_who_have_more_than_their_share_keep_it():
    uploads = [*(upload(client, "a", marks="1") for client in (0, 1, 2)), upload(3, "b")]
    assert verdicts(*uploads, specialist_share=0.6)[1].rows[0]["agreement"] == 0.75
    assert verdicts(*uploads[:3], specialist_share=0.6)[1].rows[0]["agreement"] == 1.0


def test_who_calls_most_prompts_its_own_kind_is_no_specialist():
    loud = upload(0, "x", "x", "x", "x", marks="1110")
    strategy, told = verdicts(loud, upload(1, *"aaaa"), upload(2, *"aaaa"), specialist_share=0.9)
    assert set(strategy.labels.values()) == {"a"}
    assert told.rows[0]["refused"] == {"0": {BOASTED: 3}}
    assert any(BOASTED in warning for warning in told.warnings)


@pytest.mark.parametrize("marks", [["11"], ["1111111"], ["1", "0"], []])
def test_marks_that_do_not_fit_the_answers_count_for_nothing(marks):
    texts = {"public-set": ["d"], "ids": ["0", "1", "2"], "answers": ["a", "b", "c"], "own-kind": marks}
    assert read_answers(texts, 6, "d", 9).own_kind == frozenset()


def test_a_mark_belongs_to_the_id_that_came_with_it():
    texts = {"public-set": ["d"], "ids": ["4", "9", "2"], "answers": ["a", "b", "c"], "own-kind": ["110"]}
    assert read_answers(texts, 6, "d", 9).own_kind == {4}


def test_answers_left_out_as_unchanged_keep_their_marks():
    strategy = SemanticConsensus(MajorityVote(quorum=0.5), adaptive=True, specialist_share=0.6)
    begin(strategy, PUBLIC)
    state = {}
    for server_round in (1, 2):
        download = strategy.download(0, TRAIN)
        payload, metrics, _ = train(download, state, server_round, adaptive=True, mark_own_kind=True)
        others = [upload(client, *["no"] * 4) for client in (1, 2, 3)]
        strategy.aggregate(server_round, [Upload({}, payload.texts, 0, 1, metrics), *others], [])
        assert strategy.labels == {0: "yes", 1: "no", 2: "yes", 3: "no"}
    assert payload.texts["own-kind"] == [""]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BehaviourSharing(own_kind="drop"), "own_kind='drop' must be one of"),
        (lambda: BehaviourSharing(mark_own_kind=1), "mark_own_kind=1 must be true or false"),
        (lambda: SemanticConsensus(MajorityVote(), specialist_share=1.0), "specialist_share=1.0 must be"),
    ],
)
def test_settings_that_cannot_be_used_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
