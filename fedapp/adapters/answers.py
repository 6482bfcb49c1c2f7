"""Answering with one of a benchmark's label words, and training on the label's first token.

Source: I2CL's code and its evaluation: cross entropy over the whole vocabulary at the prompt's last
token; the answer is the label whose first token is likeliest there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedapp.adapters.batching import batches_by_length
from fedapp.adapters.tokens import Batch, Encoded, Encoder
from fedapp.adapters.training import Trainer
from fedapp.models import Base
from fedapp.session import Example, Sampling, TrainConfig
from fedapp.settings import require_choice

ANSWERS = ("auto", "labels", "text")
_PROBE = "Text: one\nLabel:"
"""Stands for a prompt where none is at hand yet, so that labels that collide are found at once."""


class FirstTokenEncoder(Encoder):
    """Keeps only the first token of each answer: all that its loss looks at."""

    def examples(self, examples: Sequence[Example]) -> list[Encoded]:
        """Prompt and first answer token."""
        rows = super().examples(examples)
        return [Encoded(row.ids[: row.prompt_length + 1], row.prompt_length) for row in rows]


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

    def __init__(self, encoder: FirstTokenEncoder, labels: Sequence[str], tokenizer: Any) -> None:
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
        ending = re.search(r"\S*\s*\Z", prompt)
        key = ending.group() if ending else ""
        if key not in self._known:
            rows = self._encoder.examples([Example(prompt, label) for label in self.labels])
            tokens = [row.ids[row.prompt_length] for row in rows]
            self._refuse_collisions(tokens, key)
            self._known[key] = tokens
        return self._known[key]

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
                raise ValueError(
                    f"benchmark.labels: {first[token]!r} and {label!r} begin with the same token {piece!r} "
                    f"after {ending.strip()!r}; choose label words that this model's tokenizer tells apart"
                )
            first[token] = label


class AnswerTrainer(Trainer):
    """A ``Trainer`` whose loss is that of the answer's first token and whose answers may be labels.

    Args:
        base: A causal language model; ``base.labels`` are the benchmark's label words.
        config: Settings of the training.
        answers: ``labels`` chooses the likeliest label word, ``text`` generates, ``auto`` chooses
            where the benchmark has labels.
        decayed: Trainable tensors.
        options: As for ``Trainer``.

    Raises:
        ValueError: If the base is no language model, or labels are wanted and cannot be told apart.
    """

    def __init__(
        self, base: Base, config: TrainConfig, answers: str, *, decayed: Sequence[Tensor] = (), **options: Any
    ) -> None:
        require_choice("adapter.build.answers", answers, ANSWERS)
        super().__init__(base, config, decayed=decayed, **options)
        encoder = FirstTokenEncoder(base, config.max_length, config.max_new_tokens)
        self.encoder = encoder
        self.words: LabelTokens | None = None
        if answers == "labels" or (answers == "auto" and base.labels):
            self.words = LabelTokens(encoder, base.labels, base.tokenizer)

    def losses(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross entropy at each prompt's last token against the answer's first, [batch]."""
        rows = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
        lengths = torch.from_numpy(batch.prompt_lengths).to(rows.device)
        # The last column holds nothing but answers; shorter rows' answers stand behind their prompts.
        logits = self._last_logits(batch.input_ids[:, :-1], batch.attention_mask[:, :-1], lengths)
        losses = functional.cross_entropy(logits.float(), batch.targets[rows, lengths], reduction="none")
        return losses, len(rows)

    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None) -> list[str]:
        """Answer each prompt by a label word, or by greedy text."""
        if self.words is None:
            return super().generate(prompts, sampling)
        answers = [""] * len(prompts)
        with torch.no_grad():
            for indices, rows in batches_by_length(
                self.encoder.prompts(prompts), self.config.eval_batch_size
            ):
                batch = self.encoder.batch(rows)
                lengths = torch.from_numpy(batch.prompt_lengths).to(batch.input_ids.device)
                with self._scope(batch):
                    logits = self._last_logits(batch.input_ids, batch.attention_mask, lengths)
                tokens = np.array([self.words.of(prompts[index]) for index in indices])
                best = logits.gather(1, torch.from_numpy(tokens).to(logits.device)).argmax(1)
                for index, choice in zip(indices, best.tolist(), strict=True):
                    answers[index] = self.words.labels[choice]
        return answers

    def _last_logits(self, ids: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Logits at the last prompt token of right-padded rows, [batch, vocabulary]."""
        rows = torch.arange(len(ids), device=ids.device)
        options: dict[str, Any] = dict(self._options)
        columns = lengths - 1
        if self._keeps_logits:
            options["logits_to_keep"], columns = torch.unique(columns, return_inverse=True)
        return self.base.model(input_ids=ids, attention_mask=mask, **options).logits[rows, columns]


def require_language_model(base: Base, what: str) -> None:
    """Refuse encoders and classification heads.

    Raises:
        ValueError: If the base answers by a classification head; says what fits it.
    """
    if base.head != "lm":
        raise ValueError(
            f"{what} needs a causal language model (model.build.head=lm), {base.path or 'this base'} has a "
            f"{base.head} head, which adapters such as loreft and lora fit (method=fedreft, fedavg, fedit)"
        )
