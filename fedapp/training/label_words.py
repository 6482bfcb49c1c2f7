"""Label words as a tokenizer sees them, and the choice among them.

Source: I2CL's evaluation: the answer is the label whose first token is likeliest behind the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fedapp.core.errors import RowError
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Decoding, Example
from fedapp.models.base import Base
from fedapp.training.tokens import Encoded, Encoder

_PROBE = "Text: one\nLabel:"
"""Stands for a prompt where none is at hand yet, so that labels that collide are found at once."""


def label_tokens(answers: str, encoder: Encoder, base: Base) -> LabelTokens | None:
    """The label words to choose from; None where the model is to generate, or has a head that chooses.

    Args:
        answers: ``TrainConfig.answers``.
        encoder: Tokenises prompts with their answers.
        base: ``base.labels`` are the benchmark's label words.

    Raises:
        ValueError: See ``LabelTokens``.
    """
    if not takes_label_words(answers, base):
        return None
    return LabelTokens(encoder, base.labels, base.tokenizer)


def takes_label_words(answers: str, base: Base) -> bool:
    """Whether the model chooses among label words: not where it writes, or has a head that chooses."""
    chosen = answers == "labels" or (answers == "auto" and bool(base.labels))
    return chosen and base.head != "classification"


class LabelTokens:
    """The first token of each label word, as it stands after a prompt.

    Whether a word takes a leading blank is the tokenizer's business: prompt and word are tokenised
    together, as a training example is. Templates end alike, so this is done once for each ending.

    Args:
        encoder: Tokenises prompts with their answers.
        labels: The benchmark's label words.

    Raises:
        ValueError: If there are fewer than two labels, the tokenizer does not know one, or two begin
            with the same token.
    """

    def __init__(self, encoder: Encoder, labels: Sequence[str], tokenizer: Any) -> None:
        if len(labels) < 2:
            raise ValueError(
                f"benchmark.labels={list(labels)!r} must hold at least 2 label words to choose from"
            )
        self.labels = tuple(labels)
        self._encoder, self._tokenizer = encoder, tokenizer
        self._known: dict[str, list[int]] = {}
        self.of(_PROBE)

    def of(self, prompt: str) -> list[int]:
        """Token ids in the order of the labels.

        Raises:
            ValueError: If two labels begin with the same token after this prompt.
        """
        text = prompt.rstrip()
        key = "".join(text.rsplit(None, 1)[-1:]) + prompt[len(text) :]
        if key not in self._known:
            rows = self._encoder.examples([Example(prompt, label) for label in self.labels])
            tokens = [row.ids[row.prompt_length] for row in rows]
            self._refuse_collisions(tokens, key)
            self._known[key] = tokens
        return self._known[key]

    def tokens(self, prompts: Sequence[str], device: Any) -> Tensor:
        """Token ids behind each prompt in the order of the labels, [len(prompts), num_labels]."""
        return torch.tensor([self.of(prompt) for prompt in prompts], device=device)

    def choose(self, rivals: Tensor, decoding: Decoding | None = None) -> list[str]:
        """The label word that is likeliest behind each prompt, or one drawn among all.

        Args:
            rivals: Logits of the label words' first tokens, [num_prompts, num_labels].
            decoding: Draw with its temperature and share; torch's generator is seeded already.
        """
        rivals = rivals.float()
        chosen = rivals.argmax(1) if decoding is None else _drawn(rivals, decoding)
        return [self.labels[index] for index in chosen.tolist()]

    def _refuse_collisions(self, tokens: Sequence[int], ending: str) -> None:
        unknown = [w for w, t in zip(self.labels, tokens, strict=True) if t == self._tokenizer.unk_token_id]
        if unknown:
            raise ValueError(
                f"benchmark.labels: this model's tokenizer does not know {', '.join(map(repr, unknown))}; "
                "choose label words that it knows, or another model"
            )
        first: dict[int, str] = {}
        for label, token in zip(self.labels, tokens, strict=True):
            if token in first:
                piece = self._tokenizer.convert_ids_to_tokens(token)
                said = f"benchmark.labels: {first[token]!r} and {label!r} begin with the same token {piece!r}"
                cure = "choose label words that this model's tokenizer tells apart"
                # A row's last word stays with the party.
                probed = ending == _PROBE.split()[-1]
                place = f"after {ending!r}" if probed else "behind one of the prompts"
                raise RowError(f"{said} {place}; {cure}", f"{said} after {ending.strip()!r}; {cure}")
            first[token] = label


def label_words_for_loss(config: TrainConfig, words: LabelTokens | None, base: Base) -> LabelTokens | None:
    """The label words that the loss is over; None: over the whole vocabulary, or a head's classes.

    Raises:
        ValueError: If the loss is to be over label words where the model does not answer with any.
    """
    if config.loss != "labels":
        return None
    if words is None:
        why = (
            "this model answers by a classification head, whose loss is over its labels anyway"
            if base.head == "classification"
            else f"train.answers={config.answers!r} lets this model write text here"
        )
        raise ValueError(f"train.loss='labels' needs answers that are label words, but {why}: set vocabulary")
    return words


def with_choices(rows: Sequence[Encoded], examples: Sequence[Example], words: LabelTokens) -> list[Encoded]:
    """Rows that end with their answer's first token, which is one of their label words' first tokens.

    Raises:
        RowError: If an answer is no label word.
    """
    found = []
    for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
        tokens = words.of(example.prompt)
        if row.ids[row.prompt_length] not in tokens:
            place = (
                f"example {number}: its target is none of the label words, over which train.loss=labels is"
            )
            raise RowError(place, f"{place}; its target is {example.target[:40]!r}")
        found.append(replace(row, ids=row.ids[: row.prompt_length + 1], choices=tuple(tokens)))
    return found


def _drawn(logits: Tensor, decoding: Decoding) -> Tensor:
    """A column for each row, drawn from the likeliest ones that make up ``top_p``."""
    shares, order = (logits / decoding.temperature).softmax(1).sort(1, descending=True)
    shares = shares.masked_fill(shares.cumsum(1) - shares >= decoding.top_p, 0.0)
    return order.gather(1, torch.multinomial(shares, 1)).squeeze(1)
