"""Whether a model can say what it is to learn: a tokenizer that loses the answers makes every score 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedapp.core.errors import RowError
from fedapp.models.base import Base
from fedapp.training.label_words import takes_label_words

LOOKED_AT = 1000
"""Distinct targets of a client that are tried, spread over all of them (ours: well below a second)."""


class Expression:
    """What a base model can write, as its answers are read.

    Args:
        base: The frozen base, told the benchmark's labels.
        answers: ``TrainConfig.answers``.
        extract: The benchmark's reading of a completion.
        score: The benchmark's scores of answers to targets, the main one first.
    """

    def __init__(
        self,
        base: Base,
        answers: str,
        extract: Callable[[str], str],
        score: Callable[[Sequence[str], Sequence[str]], Mapping[str, float]],
    ) -> None:
        self._tokenizer: Any = base.tokenizer
        self._extract, self._score = extract, score
        # A head, and a choice among label words, write nothing; ``LabelTokens`` looks at the words itself.
        self._writes = base.head == "lm" and not takes_label_words(answers, base)

    def require_labels(self, labels: Sequence[str]) -> None:
        """Refuse a model that cannot write one of the label words.

        Raises:
            ValueError: If there is such a word; it is named, as labels are settings.
        """
        lost = self.lost(labels)
        if lost:
            named = ", ".join(
                f"{labels[i]!r} (it comes back as {self._written([labels[i]])[0]!r})" for i in lost
            )
            raise ValueError(
                f"benchmark.labels: this model's tokenizer cannot write {named}; "
                "choose label words that it knows, or another model"
            )

    def require_targets(self, targets: Sequence[str], where: str) -> None:
        """Refuse a model that can write none of these answers, and so would score 0 whatever it learns.

        Args:
            targets: Of a client's training rows.
            where: Whose they are, as a sentence begins (``client 0``).

        Raises:
            RowError: If that is so; no target is in its text.
        """
        distinct = list(dict.fromkeys(targets))
        some = distinct[:: max(1, -(-len(distinct) // LOOKED_AT))]
        lost = self.lost(some)
        if not some or len(lost) < len(some):
            return
        read = [self._extract(text) for text in self._written(some)]
        if next(iter(self._score(read, some).values())) > 0:  # the metric does not mind what is lost
            return
        told = (
            f"{where}: this model's tokenizer can write none of its {len(targets)} training answers "
            f"({len(some)} different ones tried), so no training reaches them: take another model"
        )
        raise RowError(told, f"{told}; {some[0]!r} comes back as {read[0]!r}")

    def lost(self, texts: Sequence[str]) -> list[int]:
        """The numbers of the texts that do not come back from the tokenizer as an answer equal to them."""
        if not self._writes or not texts:
            return []
        pairs = zip(self._written(texts), texts, strict=True)
        return [i for i, (read, text) in enumerate(pairs) if self._extract(read) != self._extract(text)]

    def lost_share(self, texts: Sequence[str]) -> float:
        """Share of the texts that are lost, of ``LOOKED_AT`` of them spread over all."""
        some = texts[:: max(1, -(-len(texts) // LOOKED_AT))]
        return len(self.lost(some)) / len(some) if some else 0.0

    def _written(self, texts: Sequence[str]) -> list[str]:
        """The texts as this model would give them at its best: its tokens for them, as text."""
        ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [text.strip() for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]
