"""Answering with one of a benchmark's label words, and training on the label's first token.

Source: I2CL's code and its evaluation: cross entropy over the whole vocabulary at the prompt's last
token; the answer is the label whose first token is likeliest there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.models.base import Base
from fedapp.training.output.head import token_losses
from fedapp.training.output.shared_prefix import SharedPrefixHead
from fedapp.training.tokens import Batch, Encoded, Encoder
from fedapp.training.trainer import Trainer


class FirstTokenEncoder(Encoder):
    """Keeps only the first token of each answer: all that its loss looks at."""

    def examples(self, examples: Sequence[Example]) -> list[Encoded]:
        """Prompt and first answer token."""
        rows = super().examples(examples)
        return [
            replace(row, ids=row.ids[: row.prompt_length + 1], answer_cut=False, answer_length=0)
            for row in rows
        ]


class FirstTokenTrainer(Trainer):
    """A ``Trainer`` of a causal language model whose loss is that of the answer's first token."""

    def make_encoder(self) -> Encoder:
        """One that keeps the answers' first tokens."""
        config = self.config
        return FirstTokenEncoder(self.base, config.max_length, config.max_new_tokens, config.template)

    def losses(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross entropy at each prompt's last token against the answer's first, [batch].

        Over the whole vocabulary, as the paper has it; over the label words with ``loss="labels"``.
        """
        if batch.choices is not None:
            return self.label_losses(batch)
        rows = torch.arange(len(batch.input_ids), device=batch.input_ids.device)
        lengths = torch.from_numpy(batch.prompt_lengths).to(rows.device)
        # The last column holds nothing but answers; shorter rows' answers stand behind their prompts.
        logits = self.last_logits(batch.input_ids[:, :-1], batch.attention_mask[:, :-1], lengths)
        return token_losses(logits, batch.targets[rows, lengths]), len(rows)


class FrozenTrainer(FirstTokenTrainer):
    """The same for a model that nothing acts on: what prompts share passes it once."""

    def __init__(self, base: Base, config: TrainConfig) -> None:
        super().__init__(base, config, decayed=[])
        self._output_head = SharedPrefixHead(base.model)


def require_language_model(base: Base, what: str) -> None:
    """Refuse encoders and classification heads.

    Raises:
        ValueError: If the base answers by a classification head; says what fits it.
    """
    if base.head != "lm":
        raise ValueError(
            f"{what} needs a causal language model (model.head=lm), {base.path or 'this base'} has a "
            f"{base.head} head, which adapters such as loreft and lora fit (method=fedreft, fedavg, fedit)"
        )
