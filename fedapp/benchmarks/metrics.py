"""Metrics over answers and targets of equal length; a fraction or a coefficient, never a percentage."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUMBER_TOLERANCE = 1e-3
"""How far two numbers may lie apart and still count as equal.

Source: ``miss = 0.001`` in evaluate.py of https://github.com/AGI-Edgerunners/LLM-Adapters
"""


def accuracy(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Share of answers that equal their target, a fraction in [0, 1].

    Raises:
        ValueError: If there is nothing to score or the lengths differ.
    """
    _check(answers, targets)
    return sum(a == t for a, t in zip(answers, targets, strict=True)) / len(targets)


def matthews_correlation(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Matthews' correlation coefficient, in [-1, 1]; 0 where one side has a single class.

    An answer that is no label (an empty one) counts as a class of its own: always wrong.

    Raises:
        ValueError: If there is nothing to score or the lengths differ.

    Source: GLUE's metric for CoLA, https://arxiv.org/abs/1804.07461
    """
    from sklearn.metrics import matthews_corrcoef  # 1.5 s to import, not needed by most benchmarks

    _check(answers, targets)
    return float(matthews_corrcoef(list(targets), list(answers)))


def macro_f1(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Unweighted mean of the F1 scores of the classes among the targets, a fraction in [0, 1].

    An answer that is none of these classes costs its target's recall, but adds no class.

    Raises:
        ValueError: If there is nothing to score or the lengths differ.
    """
    from sklearn.metrics import f1_score

    _check(answers, targets)
    classes = sorted(set(targets))
    return float(f1_score(list(targets), list(answers), labels=classes, average="macro", zero_division=0))


def first_label(completion: str, labels: Sequence[str]) -> str:
    """The first label word in the first line of a generated text, whatever its case; else empty.

    Only whole words count ("acceptable" also ends "unacceptable"), and only the first line: a model
    that has seen labelled texts may go on with the next one.
    """
    names = "|".join(re.escape(name) for name in sorted(labels, key=len, reverse=True))
    line = completion.strip().split("\n")[0]
    found = re.search(rf"(?<!\w)(?:{names})(?!\w)", line, re.IGNORECASE)
    return next((name for name in labels if found and name.lower() == found.group().lower()), "")


def rouge_l(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Mean F1 of the longest common subsequence of words, a fraction in [0, 1].

    Words are runs of letters and digits in lower case, without stemming. Both empty counts as 1,
    one empty as 0. On ASCII words it equals the package rouge-score, which knows no other letters:
    there an answer in Chinese is always empty, and "Größe" shares a word with "große".

    Raises:
        ValueError: If there is nothing to score or the lengths differ.

    Source: ROUGE-L with beta = 1, https://aclanthology.org/W04-1013
    """
    _check(answers, targets)
    return sum(_rouge_l(a, t) for a, t in zip(answers, targets, strict=True)) / len(targets)


def _rouge_l(answer: str, target: str) -> float:
    given, wanted = (re.findall(r"[^\W_]+", text.lower()) for text in (answer, target))
    if not given or not wanted:
        return float(given == wanted)
    longest = [0] * (len(wanted) + 1)  # of what was read so far, with each start of the target
    for word in given:
        diagonal = 0
        for at, other in enumerate(wanted, start=1):
            above = longest[at]
            longest[at] = diagonal + 1 if word == other else max(above, longest[at - 1])
            diagonal = above
    return 2 * longest[-1] / (len(given) + len(wanted))


def exact_match(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Share of answers with the same words as their target; case, blanks and signs do not count.

    Raises:
        ValueError: If there is nothing to score or the lengths differ.
    """
    _check(answers, targets)
    plain = [[re.findall(r"\w+", text.lower()) for text in texts] for texts in (answers, targets)]
    return sum(a == t for a, t in zip(*plain, strict=True)) / len(targets)


def same_number(answer: str, target: str, tolerance: float = NUMBER_TOLERANCE) -> bool:
    """Whether two texts are numbers at most ``tolerance`` apart; text that is no finite number never is."""
    try:
        distance = abs(float(answer) - float(target))
    except ValueError:
        return False
    return distance <= tolerance  # nan, the distance of two infinities, is not


def is_finite_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def pearson(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Pearson's correlation of two columns of numbers, in [-1, 1]; 0 where one of them is constant.

    An answer that is no number counts as 0.

    Raises:
        ValueError: If there is nothing to score or the lengths differ.

    Source: GLUE's metric for STS-B, https://arxiv.org/abs/1804.07461 (answers that are no number: ours).
    """
    _check(answers, targets)
    given, wanted = _numbers(answers), _numbers(targets)
    if np.ptp(given) == 0 or np.ptp(wanted) == 0:
        return 0.0
    return float(np.clip(np.corrcoef(given, wanted)[0, 1], -1, 1))


def spearman(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Pearson's correlation of the ranks, equal numbers sharing their mean rank; otherwise as ``pearson``."""
    _check(answers, targets)
    ranks = [[str(rank) for rank in _ranks(_numbers(texts))] for texts in (answers, targets)]
    return pearson(*ranks)


def _numbers(texts: Sequence[str]) -> np.ndarray:
    return np.array([float(text) if is_finite_number(text) else 0.0 for text in texts])


def _ranks(numbers: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


Metric = Callable[[Sequence[str], Sequence[str]], float]

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "matthews-correlation": matthews_correlation,
    "macro-f1": macro_f1,
    "rouge-l": rouge_l,
    "exact-match": exact_match,
    "pearson": pearson,
    "spearman": spearman,
}
"""Metrics that a benchmark's YAML may name."""


def metric(name: str) -> Metric:
    """Look a metric up.

    Raises:
        ValueError: If there is none of this name.
    """
    if name not in METRICS:
        raise ValueError(f"benchmark.metrics has {name!r}; known: {', '.join(sorted(METRICS))}")
    return METRICS[name]


class LabelAnswers:
    """Reads and scores answers of a benchmark that are one of its label words.

    Attributes:
        labels: The words.
        metrics: Names in ``METRICS``, the main one first.
    """

    labels: Any  # a field here, a property there
    metrics: Sequence[str]

    def extract(self, completion: str) -> str:
        """The first label word in the first line, whatever its case; empty where there is none."""
        return first_label(completion, self.labels)

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """The metrics over label words, most of them fractions in [0, 1].

        Raises:
            ValueError: If there is nothing to score or the lengths differ.
        """
        given = [self.extract(answer) for answer in answers]
        return {name: metric(name)(given, targets) for name in self.metrics}


def _check(answers: Sequence[str], targets: Sequence[str]) -> None:
    if len(answers) != len(targets):
        raise ValueError(f"{len(answers)} answers cannot be scored against {len(targets)} targets")
    if not targets:
        raise ValueError("there is nothing to score: no examples")
