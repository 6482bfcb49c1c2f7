"""The client half of methods whose clients share answers; the server's is ``server``.

A client trains on its private examples and on public prompts with the pseudo-labels that it received,
then answers the public prompts. It sends text, never token ids: another client may have another tokenizer.

Sources: as in ``server``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedapp.core.checks import require_bool, require_choice, require_int, require_number
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, Needs
from fedapp.core.model import RatingModel
from fedapp.core.payload import Payload
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.types import ClientFailure, Decoding, Example, Metrics, Shapes
from fedapp.methods.consensus.answers import num_bytes
from fedapp.methods.consensus.cost import ExpectedBytes, expected_bytes
from fedapp.methods.consensus.differences import MEMORY, ClientMemory, as_texts
from fedapp.methods.consensus.kinds import find_own_kind

OWN_KIND = ("train", "skip")


@dataclass(frozen=True)
class BehaviourSharing(ClientRoutine):
    """Train on private and pseudo-labelled examples, answer the public prompts, send the answers.

    Attributes:
        pseudo_share: Share of pseudo-labelled examples among those of a round's training, in [0, 1); 0.5
            is FedCT's (a public batch for each private one). They come on top of the private ones: where
            methods are to take equal steps, set ``train.max_steps``.
        prompts_per_round: Public prompts answered in a round, another draw each round; 0: all.
        extracted: Send the answer that the benchmark extracts from the text (a label), not the text.
        own_kind: What to do with pseudo-labels of prompts of the client's own kind, which ``kinds`` tells
            from its own prompts: ``train`` on them as on all, or ``skip`` them, as the client's own rows
            know better.
        mark_own_kind: Tell the server which of the prompts answered are of the client's own kind, a
            character each, for ``specialist_share``.
        likelihoods: Send each answer's mean log-likelihood per token under the client's own model, too.
        temperature: Of sampled answers; 0: greedy.
        top_p: Share of the probability that sampled tokens come from, in (0, 1].
        adaptive: Send only answers that changed since the last upload that the server heard.
    """

    pseudo_share: float = 0.5
    prompts_per_round: int = 0
    own_kind: str = "train"
    mark_own_kind: bool = False
    extracted: bool = False
    likelihoods: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    adaptive: bool = False

    def __post_init__(self) -> None:
        require_number("pseudo_share", self.pseudo_share, "[0, 1)")
        require_int("prompts_per_round", self.prompts_per_round, at_least=0)
        require_choice("own_kind", self.own_kind, OWN_KIND)
        require_number("temperature", self.temperature, "[0, inf)")
        require_number("top_p", self.top_p, "(0, 1]")
        for name in ("mark_own_kind", "extracted", "likelihoods", "adaptive"):
            require_bool(name, getattr(self, name))

    @property
    def needs(self) -> Needs:
        """Public prompts, and a model that rates its answers where likelihoods are sent."""
        if not self.likelihoods:
            return Needs(public_prompts=True)
        hint = "a model that can rate its answers (or method.routine.likelihoods=false)"
        return Needs(RatingModel, hint, public_prompts=True)

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Train from the client's own parameters, then answer."""
        public, model = _public(session), session.model
        memory = ClientMemory.of(session.state)
        model.load(_own(session))
        memory.take(download.texts, len(public.examples))
        session.score("own", "before")
        mine = self._own_kind(public, session)
        pseudo = pseudo_labelled(public, self._usable(memory.labels, mine))
        examples = mix(session.train_set, pseudo, self.pseudo_share, session.rng)
        loss = model.train(examples, session.rng)
        session.score("own", "after")
        metrics = {"pseudo-labels": float(len(pseudo)), **({} if loss != loss else {"train-loss": loss})}
        numbers = self._numbers(public, session.server_round)
        answers = self._answer(public, numbers, session)
        if self.adaptive:
            texts = memory.give(answers, download.texts, session.server_round)
            full = num_bytes(answers)
            metrics["upload-bytes-saved"] = float(full - Payload(texts=texts).num_bytes)
        else:
            texts = as_texts("answers", answers)
        if self.mark_own_kind:
            texts["own-kind"] = ["".join("1" if int(name) in mine else "0" for name in texts["ids"])]
        if self.likelihoods:
            texts["likelihoods"] = self._rate(public, texts["ids"], answers, session)
        session.state.clear()
        session.state.update(model.parameters())
        if self.adaptive:
            session.state[MEMORY] = memory.array()
        return Payload(texts={"public-set": [public.digest], **texts}), metrics

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """Answers as long as is assumed, nothing left out as unchanged."""
        marks = self._num_answers(moment) if self.mark_own_kind else 0
        return MessageSpec(text_bytes=self._expected(moment).up + marks)

    def _own_kind(self, public: PublicSet, session: ClientSession) -> frozenset[int]:
        if self.own_kind == "train" and not self.mark_own_kind:
            return frozenset()
        prompts = [example.prompt for example in public.examples]
        found = find_own_kind([example.prompt for example in session.train_set], prompts)
        return frozenset(np.flatnonzero(found).tolist())

    def _usable(self, labels: dict[int, str], mine: frozenset[int]) -> dict[int, str]:
        if self.own_kind == "train":
            return labels
        return {number: label for number, label in labels.items() if number not in mine}

    def _expected(self, moment: Moment) -> ExpectedBytes:
        answers = moment.answers
        prompts = self._num_answers(moment)
        return expected_bytes(prompts, answers.tokens, bytes_per_token=answers.bytes_per_token)

    def _num_answers(self, moment: Moment) -> int:
        return min(self.prompts_per_round or moment.answers.prompts, moment.answers.prompts)

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """A client uses the model that it trained itself."""
        session.model.load(_own(session))

    def _numbers(self, public: PublicSet, server_round: int) -> list[int]:
        count = len(public.examples)
        if not 0 < self.prompts_per_round < count:
            return list(range(count))
        rng = np.random.default_rng([int(public.digest, 16), server_round])  # the same on all clients
        return sorted(rng.choice(count, size=self.prompts_per_round, replace=False).tolist())

    def _answer(self, public: PublicSet, numbers: Sequence[int], session: ClientSession) -> dict[int, str]:
        prompts = [public.examples[number].prompt for number in numbers]
        if self.temperature:
            decoding = Decoding(self.temperature, self.top_p, int(session.rng.integers(2**31)))
            texts = session.model.generate(prompts, decoding)
        else:
            texts = session.model.generate(prompts)
        if len(texts) != len(prompts):
            raise ClientFailure(f"the model gives {len(texts)} answers to {len(prompts)} public prompts")
        if self.extracted:
            texts = [public.benchmark.extract(text) for text in texts]
        return dict(zip(numbers, texts, strict=True))

    def _rate(
        self, public: PublicSet, ids: Sequence[str], answers: dict[int, str], session: ClientSession
    ) -> list[str]:
        assert isinstance(session.model, RatingModel)  # as needed
        told = [name for name in ids if answers[int(name)]]
        examples = [Example(public.examples[int(name)].prompt, answers[int(name)]) for name in told]
        rated = dict(zip(told, session.model.log_likelihoods(examples), strict=True)) if told else {}
        return [f"{rated[name]:.4f}" if name in rated else "" for name in ids]


def pseudo_labelled(public: PublicSet, labels: dict[int, str]) -> list[Example]:
    """Public prompts with the consensus for a target; where there are labels, only with one of them."""
    index = {name: number for number, name in enumerate(public.labels)}
    examples = []
    for number in sorted(labels):
        if not index or labels[number] in index:
            about = public.examples[number]
            examples.append(Example(about.prompt, labels[number], about.task, index.get(labels[number])))
    return examples


def mix(
    private: Sequence[Example], pseudo: Sequence[Example], share: float, rng: np.random.Generator
) -> list[Example]:
    """All private examples, and as many pseudo-labelled ones, drawn, that they make up a share.

    No pseudo-labelled example is drawn again before all have been drawn. Nothing is drawn from ``rng``
    where there are none.

    Args:
        private: The client's own training set.
        pseudo: Pseudo-labelled public prompts.
        share: Their share of the result, in [0, 1).
        rng: Decides which.
    """
    wanted = round(len(private) * share / (1 - share)) if pseudo else 0
    drawn: list[int] = []
    while len(drawn) < wanted:
        drawn += rng.permutation(len(pseudo)).tolist()
    return [*private, *(pseudo[index] for index in drawn[:wanted])]


def _own(session: ClientSession) -> dict[str, np.ndarray]:
    return {name: array for name, array in session.state.items() if name != MEMORY}


def _public(session: ClientSession) -> PublicSet:
    if session.public is None:
        raise ClientFailure("this session has no public prompts to answer")
    return session.public
