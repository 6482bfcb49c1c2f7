"""What a client routine may touch: examples, the adapted model, one client's session.

Numpy only. Everything that needs torch stands behind ``AdaptedModel``, so a method can be
tested in milliseconds with ``fedapp.toy.adapter``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedapp.core.model import AdaptedModel
from fedapp.core.types import Arrays, ClientFailure, Example, Metrics

if TYPE_CHECKING:
    from fedapp.core.public_set import PublicSet


@dataclass
class ClientSession:
    """All that a routine may touch while it serves one message.

    Attributes:
        client_id: Stable number of the client (its partition id).
        server_round: Round of the message, from 1; 0 for an exchange that a method needs before them.
        model: Base with adapter, reset to the run's initial parameters.
        train_set, val_set, test_set: The client's own data: choose on val_set, report on test_set.
        state: The only memory between rounds; what stands here after the message is kept.
        rng: Seeded by (seed, client_id, server_round).
        metrics: What the routine measured beside its loss.
        scorer: Scores the model as it stands: ``scorer(model_name, moment)``.
        metric: The benchmark's main metric of the model as it stands on some examples.
        public: The public prompts, where the routine asks for them (``needs_public_prompts``).
        rows_per_round: Rows that a round's training passes, repeats included; None: each training row once.
    """

    client_id: int
    server_round: int
    model: AdaptedModel
    train_set: Sequence[Example]
    val_set: Sequence[Example]
    test_set: Sequence[Example]
    state: Arrays
    rng: np.random.Generator
    metrics: Metrics = field(default_factory=dict)
    scorer: Callable[[str, str], None] | None = None
    metric: Callable[[Sequence[Example]], float] | None = None
    public: PublicSet | None = None
    rows_per_round: int | None = None

    @property
    def trained_rows(self) -> int:
        """Rows that this round's training passes."""
        return len(self.train_set) if self.rows_per_round is None else self.rows_per_round

    def score(self, model: str, moment: str) -> None:
        """Put the model, as it stands, into the run's metrics (if the run asks for it).

        Args:
            model: ``own``, ``aggregated``, ``mixed`` or ``final``.
            moment: ``before`` or ``after`` local training.
        """
        if self.scorer is not None:
            self.scorer(model, moment)

    def measure(self, examples: Sequence[Example]) -> float:
        """The benchmark's main metric of the model as it stands; larger is better.

        Raises:
            ClientFailure: If the session has no benchmark.
        """
        if self.metric is None:
            raise ClientFailure("this session has no benchmark to measure with")
        return self.metric(examples)
