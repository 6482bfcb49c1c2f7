"""Scores of the model as it stands, on the splits that the config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedapp.benchmarks.base import Benchmark
from fedapp.core.checks import show_value
from fedapp.core.model import AdaptedModel
from fedapp.core.session import ClientSession
from fedapp.core.types import ClientFailure, Example, Metrics
from fedapp.wire.messages import Row

SPLITS = ("validation", "test")
MOMENTS = ("base", "before", "after")


@dataclass(frozen=True)
class ScoreConfig:
    """What is scored beside the final models (``score`` in conf/config.yaml).

    Attributes:
        splits: Out of ``SPLITS``.
        base: The base model alone, in the first round.
        before: What arrives, and what training starts from.
        after: What training ends with.
    """

    splits: tuple[str, ...]
    base: bool
    before: bool
    after: bool

    @classmethod
    def of(cls, node: Any) -> ScoreConfig:
        """Check the ``score`` node.

        Raises:
            ClientFailure: If it cannot be used; the message names the setting.
        """
        expected = "score must hold splits (a list), base, before and after (true or false)"
        if not isinstance(node, Mapping) or set(node) != {"splits", *MOMENTS}:
            raise ClientFailure(f"score={show_value(node)} cannot be used: {expected}")
        splits = node["splits"]
        if not isinstance(splits, Sequence) or isinstance(splits, str):
            raise ClientFailure(f"score.splits={splits!r} must be a list of: {', '.join(SPLITS)}")
        for split in splits:
            if split not in SPLITS:
                raise ClientFailure(f"score.splits={split!r} must be one of: {', '.join(SPLITS)}")
        for name in MOMENTS:
            if not isinstance(node[name], bool):
                raise ClientFailure(f"score.{name}={node[name]!r} must be true or false")
        return cls(tuple(splits), *(node[name] for name in MOMENTS))

    def wants(self, moment: str) -> bool:
        """Whether models are scored ``before`` or ``after`` local training."""
        return {"before": self.before, "after": self.after}[moment]


@dataclass(frozen=True)
class Scorer:
    """Scores the model as it stands.

    Attributes:
        model: The adapted model of the process.
        benchmark: Reads answers out of what the model writes, and scores them.
        config: What is to be scored.
    """

    model: AdaptedModel
    benchmark: Benchmark
    config: ScoreConfig

    def rows(self, session: ClientSession, model: str, moment: str) -> list[Row]:
        """Score on the splits that the config names and the client has.

        Args:
            session: Whose rows.
            model: What the model is at this moment (``own``).
            moment: ``before`` or ``after`` local training.
        """
        sets = {"validation": session.val_set, "test": session.test_set}
        return [
            Row(split, model, moment, len(sets[split]), self._scores(sets[split]))
            for split in self.config.splits
            if sets[split]
        ]

    def main_metric(self, examples: Sequence[Example]) -> float:
        """The benchmark's main metric on some examples."""
        return next(iter(self._metrics(examples).values()))

    def _scores(self, examples: Sequence[Example]) -> Metrics:
        metrics = self._metrics(examples)
        loss = self.model.loss(examples)
        known = {} if loss != loss else {"loss": loss}  # a black box that only answers has none
        return {**known, **metrics}

    def _metrics(self, examples: Sequence[Example]) -> Metrics:
        texts = self.model.generate([example.prompt for example in examples])
        answers = [self.benchmark.extract(text) for text in texts]
        scores = self.benchmark.score(answers, [example.target for example in examples])
        return {name: float(value) for name, value in scores.items()}
