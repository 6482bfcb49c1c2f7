"""The server half of methods whose clients share answers: FedCoFiT's semantic consensus, and FedCT.

Clients answer public prompts in text; the server forms a consensus per prompt and sends it back as
pseudo-labels, on which clients train beside their private examples. No parameters travel, so clients may
differ in model, tokenizer and adapter, and the bytes do not depend on the size of any model.

Sources: SemanticConsensus / FedCoFiT, https://arxiv.org/abs/2605.11857 (the pipeline; its constants are not
public, so all here are settings with defaults of ours); FedCT,
https://github.com/kampmichael/federatedcotraining.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedapp.config.run import RunSettings
from fedapp.core.checks import require_bool, require_choice, require_int, require_kind, require_number
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, RunFacts
from fedapp.core.model import RatingModel
from fedapp.core.payload import Payload, State, Upload
from fedapp.core.public_set import PublicSet
from fedapp.methods.consensus.answers import Answers, describe_refused, read_answers
from fedapp.methods.consensus.cost import DIGEST_BYTES
from fedapp.methods.consensus.differences import ServerMemory, as_texts
from fedapp.methods.consensus.votes import Ballot, Verdict, Vote
from fedapp.server.strategy import ServerStrategy

LEAST_LIKELY = 1e-6
"""Below this an answer's likelihood counts no less, so that all votes of a prompt are positive."""

WEIGHTINGS = ("uniform", "examples", "likelihood")


class SemanticConsensus(ServerStrategy):
    """Remember each client's latest answers, vote on every public prompt, send back what won.

    The votes of a prompt are counted against all clients whose answers are held, also those that did not
    answer this prompt: so nobody decides alone by answering what others leave out. A client's answers count
    until it sends others.
    """

    equal_shapes = False  # clients send texts

    def __init__(
        self,
        vote: Vote,
        weighting: str = "uniform",
        max_answer_chars: int = 2000,
        max_age: int = 0,
        adaptive: bool = False,
        specialist_share: float = 0.0,
    ) -> None:
        """Take the rule and the limits.

        Args:
            vote: How a prompt's answer is decided (``fedapp.methods.consensus.votes``).
            weighting: ``uniform``: a client, a vote; ``examples``: by the number of training examples that
                the client says it has; ``likelihood``: by how likely its own model finds its answer, per
                token (ours; the routine must send it, and the server believes it).
            max_answer_chars: Characters of an answer that are kept.
            max_age: Rounds for which a client that is not heard again counts, with all that it has
                said; 0: for ever.
            adaptive: Send only pseudo-labels that changed, to clients that say which they hold.
            specialist_share: Least share of a prompt's votes that the clients who call it their own kind
                have together, in [0, 1); 0: a client, a vote, whoever it is.
        """
        require_kind("vote", vote, Vote, "a kind of vote")
        require_choice("weighting", weighting, WEIGHTINGS)
        require_int("max_answer_chars", max_answer_chars, at_least=1)
        require_int("max_age", max_age, at_least=0)
        require_bool("adaptive", adaptive)
        require_number("specialist_share", specialist_share, "[0, 1)")
        self.specialist_share = specialist_share
        self.vote, self.weighting, self.max_answer_chars = vote, weighting, max_answer_chars
        self.max_age, self.adaptive = max_age, adaptive
        self.server_round = 0
        self.labels: dict[int, str] = {}
        self.memory = ServerMemory()
        self._latest: dict[int, _Voter] = {}
        self._saved = 0
        self._warned: set[tuple[int, str]] = set()

    def check(self, settings: RunSettings, routine: ClientRoutine) -> None:
        """As in the base class.

        Raises:
            ValueError: At votes that nobody can win, and ratings that nobody sends.
        """
        if self.vote.min_votes > settings.num_clients:
            raise ValueError(
                f"method.strategy.vote.min_votes={self.vote.min_votes} is more than "
                f"num_clients={settings.num_clients}: no answer could ever win"
            )
        asks = {"vote.representative": self.vote.needs_ratings, "weighting": self.weighting == "likelihood"}
        for setting in (name for name, asked in asks.items() if asked):
            if routine.needs.model is not RatingModel:
                raise ValueError(
                    f"method.strategy.{setting}='likelihood' needs clients that rate their answers: "
                    "set method.routine.likelihoods=true"
                )

    def begin(self, run: RunFacts) -> None:
        """As in the base class; loads the encoder."""
        super().begin(run)
        self.vote.ready()

    def download(self, client_id: int, moment: Moment) -> Payload:
        """The pseudo-labels with their prompt ids; empty before there are any, and to be scored."""
        if moment.phase == "evaluate":
            return Payload()
        if self.adaptive:
            texts, saved = self.memory.download(client_id)
            self._saved += saved
            return Payload(texts=texts)
        return Payload(texts=as_texts("labels", self.labels)) if self.labels else Payload()

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """A pseudo-label for every prompt answered, none to be scored."""
        if moment.phase == "evaluate":
            return [MessageSpec()] * len(uploads)
        return [MessageSpec(text_bytes=max(upload.text_bytes - DIGEST_BYTES, 0)) for upload in uploads]

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Take in what can be used of the answers, decide on every prompt, and put on record how."""
        public = self.run.public
        assert public is not None  # as the client half needs
        self.server_round = server_round
        heard = {upload.client_id: self._hear(upload, public) for upload in uploads}
        voters = self._voters()
        total = sum(voter.weight for voter in voters)
        ballots = [self._ballot(number, voters) for number in range(len(public.examples))]
        verdicts = self.vote.decide(ballots, total, public.labels)
        before, self.labels = self.labels, {n: v.text for n, v in enumerate(verdicts) if v.text is not None}
        self.memory.publish(self.server_round, self.labels)
        if not self.labels:
            self._warn(-1, "no public prompt reached the quorum: clients train on their own examples alone")
        saved = sum(upload.metrics.get("upload-bytes-saved", 0.0) for upload in uploads)
        row = {"server-round": self.server_round, "clients": len(voters), **statistics(verdicts)}
        row |= {
            "changed": sum(before.get(number) != text for number, text in self.labels.items()),
            "reference-agreement": public.agreement(self.labels),
            "refused": {str(client): dict(found.refused) for client, found in heard.items() if found.refused},
        }
        if self.adaptive:
            row |= {"upload-bytes-saved": saved, "download-bytes-saved": self._saved}
            self._saved = 0
        self.run.record("consensus", row)

    def state(self) -> State:
        """Pseudo-labels, everybody's latest answers, and the exchange's memory."""
        return State(
            facts={
                "round": self.server_round,
                "labels": list(self.labels.items()),
                "memory": self.memory.facts(),
                "latest": [[client, voter.facts()] for client, voter in self._latest.items()],
                "saved": self._saved,
                "warned": sorted(self._warned),
            }
        )

    def restore(self, state: State) -> None:
        """The same."""
        facts = state.facts
        self.server_round, self._saved = facts["round"], facts["saved"]
        self.labels = dict(facts["labels"])
        self.memory = ServerMemory.of(facts["memory"])
        self._latest = {client: _Voter.of(said) for client, said in facts["latest"]}
        self._warned = {(client, kind) for client, kind in facts["warned"]}

    def _hear(self, upload: Upload, public: PublicSet) -> Answers:
        found = read_answers(upload.texts, len(public.examples), public.digest, self.max_answer_chars)
        fault = found.fault or self.memory.confirmed(upload.client_id, upload.texts, self.server_round)
        if fault:
            self.memory.heard.pop(upload.client_id, None)
            self._warn(upload.client_id, f"the answers of client {upload.client_id} are left out: {fault}")
            return Answers(refused=Counter({fault: 1}))
        for problem in sorted(found.refused):
            about = describe_refused({problem: found.refused[problem]})
            self._warn(upload.client_id, f"client {upload.client_id}: {about}", problem)
        voter = self._latest.setdefault(upload.client_id, _Voter())
        voter.hear(found, self.server_round, upload.num_examples if self.weighting == "examples" else 1)
        return found

    def _ballot(self, number: int, voters: Sequence[_Voter]) -> Ballot:
        votes = [voter for voter in voters if voter.texts.get(number)]
        weights = {voter: voter.weight for voter in voters}
        if self.weighting == "likelihood" and votes:
            weights |= _by_likelihood(votes, number)
        special = {voter for voter in votes if number in voter.own_kind}
        weights = _raise_share(weights, special, self.specialist_share)
        return Ballot(
            tuple(voter.texts[number] for voter in votes),
            tuple(weights[voter] for voter in votes),
            tuple(voter.log_likelihoods[number] for voter in votes),
        )

    def _voters(self) -> list[_Voter]:
        oldest = self.server_round - self.max_age if self.max_age else -1
        return [self._latest[c] for c in sorted(self._latest) if self._latest[c].server_round > oldest]

    def _warn(self, client_id: int, message: str, kind: str = "") -> None:
        """The first of a kind is a warning; consensus.jsonl counts them all."""
        if (client_id, kind or message) not in self._warned:
            self._warned.add((client_id, kind or message))
            self.run.warn(f"round {self.server_round}: {message}")


class _Voter:
    """The latest answers of one client."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.log_likelihoods: dict[int, float] = {}
        self.server_round, self.weight = 0, 1.0
        self.own_kind: set[int] = set()

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it, numbered things as pairs."""
        pairs = {name: list(vars(self)[name].items()) for name in ("texts", "log_likelihoods")}
        about = {"round": self.server_round, "weight": self.weight, "own_kind": sorted(self.own_kind)}
        return {**pairs, **about}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> _Voter:
        """What ``facts`` gave."""
        voter = cls()
        voter.texts, voter.log_likelihoods = dict(facts["texts"]), dict(facts["log_likelihoods"])
        voter.server_round, voter.weight = facts["round"], facts["weight"]
        voter.own_kind = set(facts["own_kind"])
        return voter

    def hear(self, found: Answers, server_round: int, weight: float) -> None:
        """Answers take the place of earlier ones to the same prompts."""
        self.server_round, self.weight = server_round, float(weight)
        self.texts.update(found.texts)
        self.own_kind = (self.own_kind - set(found.texts)) | found.own_kind
        for number in found.texts:
            self.log_likelihoods[number] = found.log_likelihoods.get(number, float("nan"))


def statistics(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What a round's verdicts come to, for consensus.jsonl.

    Returns:
        Prompts, how many were answered and kept; over the answered ones the mean agreement (a fraction in
        [0, 1]) and number of clusters; how many winning clusters, and clusters at all, had how many voters.
    """
    answered = [verdict for verdict in verdicts if verdict.sizes]
    kept = sum(verdict.text is not None for verdict in verdicts)
    winners = Counter(verdict.sizes[0] for verdict in answered)
    sizes = Counter(size for verdict in answered for size in verdict.sizes)
    count = len(answered) or 1
    return {
        "prompts": len(verdicts),
        "answered": len(answered),
        "kept": kept,
        "kept-share": kept / len(verdicts),
        "agreement": sum(verdict.agreement for verdict in answered) / count,
        "clusters": sum(len(verdict.sizes) for verdict in answered) / count,
        "winner-sizes": {str(size): winners[size] for size in sorted(winners)},
        "cluster-sizes": {str(size): sizes[size] for size in sorted(sizes)},
    }


def _by_likelihood(votes: Sequence[_Voter], number: int) -> dict[_Voter, float]:
    """Share the votes of those who answered by how likely they find their answers; their sum stays.

    Who did not say counts like the mean of those who did.
    """
    likely = np.exp(np.minimum([voter.log_likelihoods[number] for voter in votes], 0.0))
    told = likely[~np.isnan(likely)]
    likely = np.where(np.isnan(likely), told.mean() if len(told) else 1.0, likely)
    weights = np.maximum(likely, LEAST_LIKELY) * [voter.weight for voter in votes]
    scale = sum(voter.weight for voter in votes) / weights.sum()
    return dict(zip(votes, (weights * scale).tolist(), strict=True))


def _raise_share(weights: dict[_Voter, float], special: set[_Voter], share: float) -> dict[_Voter, float]:
    """Give the special ones together this share of all votes, where they have less; the sum stays."""
    total, theirs = sum(weights.values()), sum(weights[voter] for voter in special)
    if not special or theirs >= share * total:
        return weights
    up, down = share * total / theirs, (1 - share) * total / (total - theirs)
    return {voter: weight * (up if voter in special else down) for voter, weight in weights.items()}
