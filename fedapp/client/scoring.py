"""Scores of the model as it stands, on the splits that the config names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedapp.benchmarks.base import Benchmark
from fedapp.benchmarks.counts import count_answers
from fedapp.core.checks import show_value
from fedapp.core.model import AdaptedModel, ChoosingModel
from fedapp.core.session import ClientSession
from fedapp.core.types import (
    CONSTANT_SCORE,
    EMPTY_SHARE,
    LOST_SHARE,
    SAME_SHARE,
    ClientFailure,
    Example,
    Metrics,
)
from fedapp.records.predictions import Prediction
from fedapp.wire.messages import Row

SPLITS = ("validation", "test")
SWITCHES = ("base", "before", "after", "matrix")


@dataclass(frozen=True)
class ScoreConfig:
    """What is scored beside the final models (``score`` in conf/config.yaml).

    Attributes:
        splits: Out of ``SPLITS``.
        base: The base model alone, in the first round.
        before: What arrives, and what training starts from.
        after: What training ends with.
        matrix: Each client's final model on every client's test rows; kept by the client, not sent.
    """

    splits: tuple[str, ...]
    base: bool
    before: bool
    after: bool
    matrix: bool = False

    @classmethod
    def of(cls, node: Any) -> ScoreConfig:
        """Check the ``score`` node.

        Raises:
            ClientFailure: If it cannot be used; the message names the setting.
        """
        expected = "score must hold splits (a list), base, before, after and matrix (true or false)"
        if not isinstance(node, Mapping) or set(node) != {"splits", *SWITCHES}:
            raise ClientFailure(f"score={show_value(node)} cannot be used: {expected}")
        splits = node["splits"]
        if not isinstance(splits, Sequence) or isinstance(splits, str):
            raise ClientFailure(f"score.splits={splits!r} must be a list of: {', '.join(SPLITS)}")
        for split in splits:
            if split not in SPLITS:
                raise ClientFailure(f"score.splits={split!r} must be one of: {', '.join(SPLITS)}")
        for name in SWITCHES:
            if not isinstance(node[name], bool):
                raise ClientFailure(f"score.{name}={node[name]!r} must be true or false")
        return cls(tuple(splits), *(node[name] for name in SWITCHES))

    def wants(self, moment: str) -> bool:
        """Whether models are scored ``before`` or ``after`` local training."""
        return {"before": self.before, "after": self.after}[moment]


def _nothing_lost(_targets: Sequence[str]) -> float:
    return 0.0


@dataclass(frozen=True)
class Scorer:
    """Scores the model as it stands.

    Attributes:
        model: The adapted model of the process.
        benchmark: Reads answers out of what the model writes, and scores them.
        config: What is to be scored.
        lost_share: Share of some targets that the model could not write if it knew them.
    """

    model: AdaptedModel
    benchmark: Benchmark
    config: ScoreConfig
    lost_share: Callable[[Sequence[str]], float] = _nothing_lost

    def rows(self, session: ClientSession, model: str, moment: str) -> list[Row]:
        """Score on the splits that the config names and the client has.

        Args:
            session: Whose rows.
            model: What the model is at this moment (``own``).
            moment: ``before`` or ``after`` local training.
        """
        return [
            Row(split, model, moment, len(examples), self._scores(examples, self._answer(examples)[1]))
            for split, examples in self._sets(session)
        ]

    def final_rows(self, session: ClientSession) -> tuple[list[Row], list[Prediction]]:
        """The same of the final model, with ``JUDGED`` among the scores, and with what it said.

        Where answers are labels, rows hold them counted by target.
        """
        rows, predictions = [], []
        for split, examples in self._sets(session):
            completions, answers = self._answer(examples)
            scores = {**self._scores(examples, answers), **self._judged(examples, answers)}
            targets = [example.target for example in examples]
            counts = count_answers(answers, targets, self.benchmark.labels) or ()
            rows.append(Row(split, "final", "after", len(examples), scores, counts))
            predictions += [
                Prediction(split, number, example.prompt, completion, answer, example.target)
                for number, (example, completion, answer) in enumerate(
                    zip(examples, completions, answers, strict=True)
                )
            ]
        return rows, predictions

    def scores_on(self, examples: Sequence[Example]) -> Metrics:
        """The benchmark's metrics of the model as it stands, without its loss; nothing of no examples."""
        return self._metrics(examples, self._answer(examples)[1]) if examples else {}

    def main_metric(self, examples: Sequence[Example]) -> float:
        """The benchmark's main metric on some examples."""
        return next(iter(self._metrics(examples, self._answer(examples)[1]).values()))

    def _sets(self, session: ClientSession) -> list[tuple[str, Sequence[Example]]]:
        sets = {"validation": session.val_set, "test": session.test_set}
        return [(split, sets[split]) for split in self.config.splits if sets[split]]

    def _answer(self, examples: Sequence[Example]) -> tuple[list[str], list[str]]:
        """What the model says to each prompt, and the answer in it."""
        if self.benchmark.has_options:
            assert isinstance(self.model, ChoosingModel)  # ``require_model`` has seen to it
            rated = zip(examples, self.model.rate_options(examples), strict=True)
            completions = [self.benchmark.choose(example.options, ratings) for example, ratings in rated]
        else:
            completions = self.model.generate([example.prompt for example in examples])
        return completions, [self.benchmark.extract(text) for text in completions]

    def _scores(self, examples: Sequence[Example], answers: Sequence[str]) -> Metrics:
        metrics = self._metrics(examples, answers)
        loss = self.model.loss(examples)
        known = {} if loss != loss else {"loss": loss}  # a black box that only answers has none
        return {**known, **metrics}

    def _metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> Metrics:
        scores = self.benchmark.score(answers, [example.target for example in examples])
        return {name: float(value) for name, value in scores.items()}

    def _judged(self, examples: Sequence[Example], answers: Sequence[str]) -> Metrics:
        """What shows that answers say nothing of their prompts; see ``JUDGED``."""
        targets = [example.target for example in examples]
        usual = Counter(targets).most_common(1)[0][0]
        constant = self._metrics(examples, [self.benchmark.extract(usual)] * len(examples))
        return {
            SAME_SHARE: Counter(answers).most_common(1)[0][1] / len(answers),
            EMPTY_SHARE: sum(not answer.strip() for answer in answers) / len(answers),
            LOST_SHARE: self.lost_share(targets),
            CONSTANT_SCORE: next(iter(constant.values())),
        }
