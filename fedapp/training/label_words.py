"""Label words as a tokenizer sees them, and the choice among them.

Source: I2CL's evaluation: the answer is the label whose first token is likeliest behind the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedapp.core.errors import RowError
from fedapp.core.types import Decoding, Example
from fedapp.models.base import Base
from fedapp.training.tokens import Encoder

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
    chosen = answers == "labels" or (answers == "auto" and base.labels)
    if not chosen or base.head == "classification":
        return None
    return LabelTokens(encoder, base.labels, base.tokenizer)


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

    def choose(self, logits: Tensor, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """The label word that is likeliest behind each prompt, or one drawn among all.

        Args:
            logits: At the prompts' last tokens, [len(prompts), vocabulary].
            prompts: The prompts.
            decoding: Draw with its temperature and share; torch's generator is seeded already.
        """
        tokens = torch.tensor([self.of(prompt) for prompt in prompts], device=logits.device)
        rivals = logits.gather(1, tokens).float()
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


def _drawn(logits: Tensor, decoding: Decoding) -> Tensor:
    """A column for each row, drawn from the likeliest ones that make up ``top_p``."""
    shares, order = (logits / decoding.temperature).softmax(1).sort(1, descending=True)
    shares = shares.masked_fill(shares.cumsum(1) - shares >= decoding.top_p, 0.0)
    return order.gather(1, torch.multinomial(shares, 1)).squeeze(1)
