"""How the server decides on one answer per prompt: by meaning, or by equal labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from fedapp.core.checks import require_choice, require_int, require_number
from fedapp.methods.consensus.clustering import Clustering
from fedapp.methods.consensus.similarity import (
    largest_cluster,
    medoid,
    most_likely,
    nearest_to_centroid,
    similarities,
)

SLACK = 1e-9  # a share that equals the quorum reaches it, however it was rounded
REPRESENTATIVES = ("medoid", "centroid", "likelihood")


@dataclass(frozen=True)
class Ballot:
    """The votes on one prompt.

    Attributes:
        texts: One answer per voter, in the order of their client ids; none is empty.
        weights: Votes of each, positive.
        log_likelihoods: What each voter's model gives its own answer, nats per token; NaN: not known.
    """

    texts: tuple[str, ...]
    weights: tuple[float, ...]
    log_likelihoods: tuple[float, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What came out for one prompt.

    Attributes:
        text: The pseudo-label, a client's own words; None where the prompt is dropped.
        agreement: Votes of the largest cluster among all that could have been cast, in [0, 1].
        sizes: Voters of each cluster, the largest (the winner's) first.
    """

    text: str | None
    agreement: float
    sizes: tuple[int, ...]


class Embedder(Protocol):
    """A sentence encoder (``fedapp.models.embedders``)."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """One row of length one per text, [texts, dim]."""


@runtime_checkable
class Vote(Protocol):
    """A rule of this module."""

    @property
    def min_votes(self) -> int:
        """Voters that an answer needs."""

    @property
    def needs_ratings(self) -> bool:
        """Whether clients must say how likely they find their answers."""

    def ready(self) -> None:
        """Get what deciding needs; called before the first round, so that what is missing costs none."""

    def decide(self, ballots: Sequence[Ballot], total: float, labels: Sequence[str]) -> list[Verdict]:
        """Decide on every prompt.

        Args:
            ballots: The votes, prompt by prompt.
            total: All votes that could be cast on a prompt.
            labels: What may be answered, in order; empty where answers are free text.
        """


@dataclass(frozen=True)
class SemanticVote:
    """Cluster answers by meaning; the largest cluster's representative wins.

    Source: the shape is FedCoFiT's, https://arxiv.org/abs/2605.11857; clustering, representative, quorum
    and ties are not public and ours.

    Attributes:
        embedder: The sentence encoder.
        clustering: Which answers mean the same.
        representative: ``medoid``: most similar to all in its cluster, copies counted; ``centroid``: nearest
            to the mean of its cluster's different answers; ``likelihood``: the answer that its own
            client's model finds most likely (the routine must send it), else the medoid.
        quorum: Share of all votes that the cluster needs, or the prompt is dropped this round.
        min_votes: Voters that it needs: one alone is no consensus, whatever its share.
    """

    embedder: Embedder
    clustering: Clustering
    representative: str = "medoid"
    quorum: float = 0.5
    min_votes: int = 2

    @property
    def needs_ratings(self) -> bool:
        """Where the likeliest answer is to represent its cluster."""
        return self.representative == "likelihood"

    def __post_init__(self) -> None:
        require_choice("representative", self.representative, REPRESENTATIVES)
        _check_quorum(self.quorum, self.min_votes)

    def ready(self) -> None:
        """Load the encoder.

        Raises:
            ValueError: If that cannot be done.
        """
        self.embedder.encode(["ready"])

    def decide(self, ballots: Sequence[Ballot], total: float, labels: Sequence[str] = ()) -> list[Verdict]:
        """See ``Vote.decide``; only different answers to contested prompts are embedded, each once."""
        contested = [ballot for ballot in ballots if len(set(ballot.texts)) > 1]
        distinct = sorted({text for ballot in contested for text in ballot.texts})
        rows = {text: row for row, text in enumerate(distinct)}
        vectors = self.embedder.encode(distinct) if distinct else np.zeros((0, 1), np.float32)
        return [
            self._decide(ballot, total, vectors[[rows[t] for t in ballot.texts]])
            if len(set(ballot.texts)) > 1
            else self._agreed(ballot, total)
            for ballot in ballots
        ]

    def _agreed(self, ballot: Ballot, total: float) -> Verdict:
        if not ballot.texts:
            return Verdict(None, 0.0, ())
        return self._verdict(ballot.texts[0], np.arange(len(ballot.texts)), ballot, total, ())

    def _decide(self, ballot: Ballot, total: float, vectors: np.ndarray) -> Verdict:
        weights = np.array(ballot.weights)
        similarity = similarities(vectors)
        labels = self.clustering.labels(similarity)
        members = largest_cluster(labels, similarity, weights)
        winner = self._representative(ballot, members, vectors, similarity, weights)
        others = np.delete(labels, members)
        sizes = sorted(np.unique(others, return_counts=True)[1].tolist(), reverse=True)
        return self._verdict(ballot.texts[winner], members, ballot, total, tuple(sizes))

    def _representative(
        self,
        ballot: Ballot,
        members: np.ndarray,
        vectors: np.ndarray,
        similarity: np.ndarray,
        weights: np.ndarray,
    ) -> int:
        if self.representative == "centroid":
            copies = Counter(ballot.texts)
            once = np.array([1.0 / copies[text] for text in ballot.texts])
            return nearest_to_centroid(vectors, members, once)
        if self.representative == "likelihood" and ballot.log_likelihoods:
            likely = most_likely(np.array(ballot.log_likelihoods), members)
            if likely is not None:
                return likely
        return medoid(similarity, members, weights)

    def _verdict(
        self, text: str, members: np.ndarray, ballot: Ballot, total: float, others: tuple[int, ...]
    ) -> Verdict:
        share = float(sum(ballot.weights[i] for i in members)) / total
        kept = share >= self.quorum - SLACK and len(members) >= self.min_votes
        return Verdict(text if kept else None, share, (len(members), *others))


@dataclass(frozen=True)
class MajorityVote:
    """Equal answers are one camp; the largest camp's label wins.

    Ties go to the label that comes first in the benchmark, as numpy's ``bincount(…).argmax()`` has it;
    without a list of labels to the text that sorts first (ours). An answer that is no label counts for
    nobody.

    Source: FedCT, https://github.com/kampmichael/federatedcotraining: ``quorum`` 0 is its majority, 0.8 the
    default of its qualified majority, below which a prompt is dropped.

    Attributes:
        quorum: Share of all votes that the label needs, or the prompt is dropped this round.
        min_votes: Voters that it needs.
    """

    quorum: float = 0.0
    min_votes: int = 1
    needs_ratings: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_quorum(self.quorum, self.min_votes)

    def ready(self) -> None:
        """Nothing is needed."""

    def decide(self, ballots: Sequence[Ballot], total: float, labels: Sequence[str] = ()) -> list[Verdict]:
        """See ``Vote.decide``."""
        order = {label: number for number, label in enumerate(labels)}
        return [self._decide(ballot, total, order) for ballot in ballots]

    def _decide(self, ballot: Ballot, total: float, order: dict[str, int]) -> Verdict:
        camps: dict[str, list[float]] = {}
        for text, weight in zip(ballot.texts, ballot.weights, strict=True):
            if not order or text in order:
                camps.setdefault(text, []).append(weight)
        if not camps:
            return Verdict(None, 0.0, ())
        ranked = sorted(camps, key=lambda text: (-round(sum(camps[text]), 6), order.get(text, 0), text))
        winner = ranked[0]
        share = float(sum(camps[winner])) / total
        kept = share >= self.quorum - SLACK and len(camps[winner]) >= self.min_votes
        return Verdict(winner if kept else None, share, tuple(len(camps[text]) for text in ranked))


def _check_quorum(quorum: float, min_votes: int) -> None:
    require_number("quorum", quorum, "[0, 1]", "share of the votes")
    require_int("min_votes", min_votes, at_least=1)
