"""Semantic consensus and FedCT: what a client trains on and sends, what the server makes of it."""

import numpy as np
import pytest

from fedapp.core.model import RatingModel
from fedapp.core.payload import Payload, Upload
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.types import ClientFailure, Example
from fedapp.methods.consensus.client import BehaviourSharing, mix, pseudo_labelled
from fedapp.methods.consensus.clustering import Clustering
from fedapp.methods.consensus.differences import MEMORY
from fedapp.methods.consensus.server import SemanticConsensus, statistics
from fedapp.methods.consensus.votes import MajorityVote, SemanticVote, Verdict
from fedapp.models.embedders import TfIdfEmbedder
from fedapp.toy.benchmark import Toy
from tests.server_side import TRAIN, begin

PUBLIC = PublicSet.of(Toy(num_public=4))
PRIVATE = [Example(f"private {i}", "0", "task-0", 0) for i in range(6)]


class Model(RatingModel):
    """Answers as it is told, and notes what it is trained on."""

    def __init__(self, *answers, size=3):
        self.answers, self.trained, self.asked = list(answers), [], []
        self.values = {"w": np.zeros(size, np.float32)}

    def parameters(self):
        return {name: value.copy() for name, value in self.values.items()}

    def load(self, parameters):
        self.values |= {name: parameters[name] for name in parameters}
        assert set(self.values) == {"w"}

    def train(self, examples, rng):
        self.trained = list(examples)
        self.values["w"] = self.values["w"] + 1
        return 0.5

    def generate(self, prompts, decoding=None):
        self.asked, self.decoding = list(prompts), decoding
        return self.answers[: len(prompts)] if len(self.answers) > 1 else self.answers * len(prompts)

    def log_likelihoods(self, examples):
        return [-float(len(example.target)) for example in examples]


def session(model, state=None, *, server_round=1, public=PUBLIC):
    rng = np.random.default_rng(0)
    made = ClientSession(0, server_round, model, PRIVATE, [], [], {} if state is None else state, rng)
    made.public = public
    return made


def labels(**by_id):
    return Payload(texts={"ids": [name[1:] for name in by_id], "labels": list(by_id.values())})


def server(vote=None, public=PUBLIC, **settings):
    made = SemanticConsensus(vote or MajorityVote(quorum=0.5, min_votes=2), **settings)
    made.told = begin(made, public)
    return made


def upload(client_id, *answers, ids=None, num_examples=1, public=PUBLIC, **more):
    names = [str(i) for i in range(len(answers))] if ids is None else ids
    texts = {"public-set": [public.digest], "ids": names, "answers": list(answers), **more}
    return Upload({}, texts, client_id, num_examples, {})


def test_a_client_answers_every_public_prompt_and_sends_nothing_but_text():
    model = Model("a", "b", "c", "d")
    payload, metrics = BehaviourSharing().train(Payload(), session(model))
    assert payload.arrays == {}
    assert payload.texts == {
        "public-set": [PUBLIC.digest], "ids": ["0", "1", "2", "3"], "answers": ["a", "b", "c", "d"]
    }  # fmt: skip
    assert model.asked == [example.prompt for example in PUBLIC.examples]
    assert metrics == {"train-loss": 0.5, "pseudo-labels": 0.0}


def test_before_there_is_a_consensus_a_client_trains_on_its_own_examples_alone():
    model = Model("a")
    BehaviourSharing().train(Payload(), session(model))
    assert model.trained == PRIVATE


def test_pseudo_labels_make_up_their_share_and_belong_to_their_prompts():
    model = Model("a")
    BehaviourSharing(pseudo_share=0.25).train(labels(p3="three", p1="one"), session(model))
    assert model.trained[:6] == PRIVATE
    pseudo = model.trained[6:]
    assert len(pseudo) == 2  # 2 of 8 are a quarter
    given = {"public prompt 1": "one", "public prompt 3": "three"}
    assert {example.prompt: example.target for example in pseudo} == given


@pytest.mark.parametrize("given", [{"p1": "one", "p3": "three"}, {"p3": "three", "p1": "one"}])
def test_pseudo_labelled_rows_stand_behind_the_private_ones_in_an_order_that_the_seed_decides(given):
    model, made = Model("a"), session(Model("a"))
    made.model, made.rng = model, np.random.default_rng(3)
    BehaviourSharing(pseudo_share=0.4).train(labels(**given), made)
    rng = np.random.default_rng(3)
    by_prompt = ["one", "three"]  # whatever the order in which they came
    order = [*rng.permutation(2), *rng.permutation(2)]
    assert [example.target for example in model.trained] == ["0"] * 6 + [by_prompt[i] for i in order]


def test_pseudo_labels_are_put_in_the_order_of_their_prompts():
    rows = pseudo_labelled(PUBLIC, {3: "three", 0: "zero", 2: "two"})
    assert [(row.prompt, row.target) for row in rows] == [
        (f"public prompt {number}", text) for number, text in ((0, "zero"), (2, "two"), (3, "three"))
    ]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (0.5, 6), (0.75, 18)])
def test_a_share_counts_among_all_and_uses_every_label_before_any_again(share, expected):
    pseudo = [Example(f"p{i}", "x") for i in range(4)]
    mixed = mix(PRIVATE, pseudo, share, np.random.default_rng(0))
    drawn = [mixed[6:].count(example) for example in pseudo]
    assert sum(drawn) == expected
    assert max(drawn) - min(drawn) <= 1


def test_with_labels_a_pseudo_label_gets_its_index_and_any_other_text_none():
    public = PublicSet(PUBLIC.examples, ("no", "yes"))
    model = Model("yes")
    BehaviourSharing(pseudo_share=0.5).train(labels(p0="yes", p1="perhaps"), session(model, public=public))
    pseudo = {(example.target, example.label) for example in model.trained[6:]}
    assert pseudo == {("yes", 1)}


@pytest.mark.parametrize("texts", [{"ids": ["0"], "labels": []}, {"ids": ["9", "x"], "labels": ["a", "b"]}])
def test_labels_that_do_not_fit_are_not_trained_on(texts):
    model = Model("a")
    BehaviourSharing().train(Payload(texts=texts), session(model))
    assert model.trained == PRIVATE


def test_the_references_of_public_prompts_change_nothing():
    other = PublicSet(tuple(Example(e.prompt, "secret", e.task) for e in PUBLIC.examples))
    sent = []
    for public in (PUBLIC, other):
        model = Model("a")
        payload, _ = BehaviourSharing().train(labels(p0="x"), session(model, public=public))
        sent.append((payload.texts, model.trained))
    assert sent[0] == sent[1]


def test_a_clients_own_parameters_go_on_from_round_to_round_and_stay_with_it():
    state, model = {}, Model("a")
    BehaviourSharing().train(Payload(), session(model, state))
    BehaviourSharing(adaptive=True).train(Payload(), session(Model("a"), state, server_round=2))
    assert state["w"].tolist() == [2, 2, 2]
    used = Model("a")
    BehaviourSharing().evaluate(Payload(), session(used, state))
    assert used.values["w"].tolist() == [2, 2, 2]
    assert MEMORY in state


def test_bytes_do_not_depend_on_the_size_of_the_model():
    sizes = []
    for size in (3, 300_000):
        payload, _ = BehaviourSharing().train(labels(p0="x"), session(Model("an answer", size=size)))
        sizes.append(payload.num_bytes)
    assert sizes == [8 + 4 + 4 * len("an answer")] * 2


def test_a_draw_of_prompts_is_the_same_on_all_clients_and_another_in_every_round():
    asked = []
    for server_round in (1, 1, 2, 3):
        model = Model("a")
        made = session(model, server_round=server_round)
        made.rng = np.random.default_rng(len(asked))
        payload, _ = BehaviourSharing(prompts_per_round=2).train(Payload(), made)
        assert [PUBLIC.examples[int(name)].prompt for name in payload.texts["ids"]] == model.asked
        asked.append(tuple(payload.texts["ids"]))
    assert asked[0] == asked[1]
    assert len(set(asked)) > 1
    assert {len(names) for names in asked} == {2}


def test_the_likelihood_of_every_answer_may_travel_along():
    model = Model("a", "", "ccc", "d")
    payload, _ = BehaviourSharing(likelihoods=True).train(Payload(), session(model))
    assert payload.texts["likelihoods"] == ["-1.0000", "", "-3.0000", "-1.0000"]


def test_sampled_answers_are_drawn_from_the_clients_own_seed():
    model = Model("a")
    BehaviourSharing(temperature=0.7, top_p=0.9).train(Payload(), session(model))
    assert (model.decoding.temperature, model.decoding.top_p) == (0.7, 0.9)
    BehaviourSharing().train(Payload(), session(model))
    assert model.decoding is None


def test_a_model_that_answers_too_few_prompts_is_a_failure_of_that_client():
    with pytest.raises(ClientFailure, match="3 answers to 4 public prompts"):
        BehaviourSharing().train(Payload(), session(Model("a", "b", "c")))


def test_the_consensus_comes_back_with_the_ids_of_its_prompts():
    strategy = server()
    assert strategy.download(0, TRAIN).texts == {}
    uploads = [upload(0, "a", "x", "c", "d"), upload(1, "a", "y", "c"), upload(2, "b", "z", "c", "d")]
    strategy.aggregate(1, uploads, [])
    assert strategy.download(7, TRAIN).texts == {"ids": ["0", "2", "3"], "labels": ["a", "c", "d"]}


def test_answers_are_matched_by_id_whatever_their_order():
    strategy = server()
    strategy.aggregate(1, [upload(0, "a", "b"), upload(1, "b", "a", ids=["1", "0"])], [])
    assert strategy.labels == {0: "a", 1: "b"}


def test_the_latest_answers_count_until_a_client_sends_others():
    strategy = server()
    strategy.aggregate(1, [upload(c, "a") for c in range(3)], [])
    strategy.aggregate(1, [upload(2, "b")], [])
    assert strategy.labels == {0: "a"}
    strategy.aggregate(1, [upload(1, "b")], [])
    assert strategy.labels == {0: "b"}


def test_answers_may_grow_too_old_to_count():
    strategy = server(max_age=2)
    strategy.aggregate(1, [upload(c, "a") for c in range(3)], [])
    strategy.aggregate(2, [upload(0, "b")], [])
    assert strategy.labels == {0: "a"}
    strategy.aggregate(3, [upload(0, "b"), upload(1, "b")], [])
    assert strategy.told.rows[-1]["clients"] == 2
    assert strategy.labels == {0: "b"}


def test_weights_are_votes_or_examples():
    uploads = [upload(0, "a", num_examples=9), upload(1, "b"), upload(2, "b")]
    even, weighted = server(), server(MajorityVote(), weighting="examples")
    even.aggregate(1, uploads, [])
    weighted.aggregate(1, uploads, [])
    assert (even.labels, weighted.labels) == ({0: "b"}, {0: "a"})
    assert even.told.rows[0]["agreement"] == pytest.approx(2 / 3)
    assert weighted.told.rows[0]["agreement"] == pytest.approx(9 / 11)  # of all votes, not of all voters


def test_one_client_that_floods_is_outvoted():
    strategy = server(SemanticVote(TfIdfEmbedder(), Clustering(threshold=0.9)))
    honest = ["paris is it", "two and two is four", "a dog", "yes"]
    flood = upload(2, *["BUY NOW"] * 400, ids=["0", "1", "2", "3"] * 100)
    strategy.aggregate(1, [upload(0, *honest), upload(1, *honest), flood], [])
    assert strategy.labels == dict(enumerate(honest))
    assert strategy.told.rows[0]["refused"] == {"2": {"to a prompt answered before": 396}}


def test_all_disagreeing_leaves_clients_with_their_own_examples():
    strategy = server(SemanticVote(TfIdfEmbedder(), Clustering(threshold=0.9)))
    strategy.aggregate(1, [upload(c, f"{'xyz'[c]} {'uvw'[c]}") for c in range(3)], [])
    assert strategy.labels == {}
    assert strategy.download(0, TRAIN).texts == {}
    (warning,) = strategy.told.warnings
    assert "no public prompt reached the quorum" in warning


def test_what_a_round_came_to_is_on_record():
    strategy = server()
    strategy.aggregate(1, [upload(0, "0", "1", "x"), upload(1, "0", "2", "x"), upload(2, "0", "1", "y")], [])
    row = strategy.told.rows[0]
    assert row == {
        "server-round": 1,
        "clients": 3,
        "prompts": 4,
        "answered": 3,
        "kept": 3,
        "kept-share": 0.75,
        "agreement": pytest.approx((1 + 2 / 3 + 2 / 3) / 3),
        "clusters": pytest.approx(5 / 3),
        "winner-sizes": {"2": 2, "3": 1},
        "cluster-sizes": {"1": 2, "2": 2, "3": 1},
        "changed": 3,
        "reference-agreement": pytest.approx(2 / 3),  # the toy's references are 0, 1, 2, 3
        "refused": {},
    }
    strategy.aggregate(1, [upload(0, "0", "2", "x"), upload(1), upload(2)], [])
    assert strategy.told.rows[1]["changed"] == 1


def test_no_answers_at_all_are_statistics_too():
    assert statistics([Verdict(None, 0.0, ())])["agreement"] == 0.0


def test_the_first_fault_of_a_kind_is_a_warning_and_all_are_counted():
    strategy = server()
    for _ in range(3):
        strategy.aggregate(1, [upload(0, "", "a"), upload(1, "b", "a" * 5000)], [])
    assert strategy.told.warnings == [
        "round 1: client 0: of its answers 1 empty",
        "round 1: client 1: of its answers 1 cut to max_answer_chars",
        "round 1: no public prompt reached the quorum: clients train on their own examples alone",
    ]
    assert [row["refused"]["0"] for row in strategy.told.rows] == [{"empty": 1}] * 3


def test_adaptive_exchange_ends_at_the_same_labels_with_fewer_bytes():
    full, lean = server(), server(adaptive=True)
    sent = {}
    for strategy in (full, lean):
        states, sent[strategy] = [{}, {}, {}], 0
        for server_round in range(1, 5):
            uploads = []
            for client in range(3):
                model = Model("a", f"{server_round // 3}", "c", f"own {client}")
                made = session(model, states[client], server_round=server_round)
                download = strategy.download(client, TRAIN)
                payload, metrics = BehaviourSharing(adaptive=strategy.adaptive).train(download, made)
                sent[strategy] += payload.num_bytes + download.num_bytes
                uploads.append(Upload({}, payload.texts, client, 1, metrics))
            strategy.aggregate(server_round, uploads, [])
    assert lean.labels == full.labels
    saved = sum(r["upload-bytes-saved"] + r["download-bytes-saved"] for r in lean.told.rows)
    assert sent[lean] == sent[full] - saved < sent[full]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BehaviourSharing(pseudo_share=1.0), "pseudo_share=1.0 must be"),
        (lambda: BehaviourSharing(prompts_per_round=-1), "prompts_per_round=-1 must be"),
        (lambda: BehaviourSharing(top_p=0), "top_p=0 must be"),
        (lambda: BehaviourSharing(adaptive="yes"), "adaptive='yes' must be true or false"),
        (lambda: server(weighting="loud"), "weighting='loud' must be one of"),
        (lambda: SemanticConsensus("median"), "vote='median' must be"),
        (lambda: server(max_answer_chars=0), "max_answer_chars=0 must be"),
    ],
)
def test_settings_that_cannot_be_used_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
