"""Named arrays, examples, and how answers are drawn: the values that everybody hands on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Arrays = dict[str, np.ndarray]
"""Named arrays; a name means the same thing in every round and on every client."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of named arrays: what is known of them without their values."""

Metrics = dict[str, float]
"""Metric names in kebab-case, as Flower's (``train-loss``)."""

LabelCounts = tuple[tuple[int, ...], ...]
"""Answers by target: a row for each label as target, a column for each as answer and one for no label."""

MAX_LABELS = 64
"""Labels of which answers are counted; with more, counts would be larger than what they sum up."""

SAME_SHARE, EMPTY_SHARE, LOST_SHARE = "same-answer-share", "empty-answer-share", "lost-target-share"
CONSTANT_SCORE = "constant-score"
JUDGED = (SAME_SHARE, EMPTY_SHARE, LOST_SHARE, CONSTANT_SCORE)
"""What a client says of its final answers beside their scores: whether they say anything of their prompts.

Shares of its rows: of the most frequent answer, of empty answers, of targets that the model's tokenizer
cannot write; and the main metric of the most frequent target, given as the answer to every row.
"""


@dataclass(frozen=True)
class Example:
    """One prompt with its answer.

    Attributes:
        prompt: What the model reads, template included; interventions act on these tokens only.
        target: The answer that the model should give, without surrounding blanks.
        task: The task family the example belongs to (``sentiment``), for task partitions.
        label: Index into the benchmark's labels where the task is classification.
        options: Where the model is to choose by likelihood: the answers to choose from, target among them.
    """

    prompt: str
    target: str
    task: str = ""
    label: int | None = None
    options: tuple[str, ...] = ()


class ClientFailure(RuntimeError):
    """A client cannot take part in this round; the message is shown to the user by the server."""


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn.

    Attributes:
        temperature: Divides the logits, above 0.
        top_p: Share of the probability that tokens are drawn from, in (0, 1].
        seed: The same seed and the same prompts in the same batches give the same answers.
    """

    temperature: float
    top_p: float
    seed: int


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of entries of all arrays."""
    return sum(math.prod(shape) for shape in shapes.values())
