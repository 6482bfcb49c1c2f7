"""How any adapter is trained, scored and asked: what reft and lora share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Decoding, Example
from fedapp.models.base import Base
from fedapp.training.batching import batches_by_length, training_batches
from fedapp.training.checkpointing import checkpointable_blocks, checkpointed
from fedapp.training.cuts import CutLog
from fedapp.training.decoding import complete, in_training, seeded
from fedapp.training.label_words import label_tokens, label_words_for_loss, with_choices
from fedapp.training.options import option_rows
from fedapp.training.output.head import OutputHead, answer_losses, answer_ratings
from fedapp.training.tokens import Batch, Encoded, Encoder


class Trainer:
    """Runs a base model with an adapter on examples.

    Args:
        base: The frozen base.
        config: Settings of the training.
        decayed: Trainable tensors that weight decay acts on.
        fixed: Trainable tensors that it must not touch.
        scope: Gives the context in which the model sees a batch (arms interventions).
        before_step: Called between the backward pass and clipping.
        after_step: Called after each optimiser step.
        toggled: Modules that are in training mode while a round trains (their dropout).
    """

    def __init__(
        self,
        base: Base,
        config: TrainConfig,
        *,
        decayed: Sequence[Tensor],
        fixed: Sequence[Tensor] = (),
        scope: Callable[[Batch], AbstractContextManager[object]] = lambda _batch: nullcontext(),
        before_step: Callable[[], None] = lambda: None,
        after_step: Callable[[], None] = lambda: None,
        toggled: Sequence[nn.Module] = (),
    ) -> None:
        self.base, self.config = base, config
        self.encoder = self.make_encoder()
        self.words = label_tokens(config.answers, self.encoder, base)
        self._cuts = CutLog(self.encoder, base.head, 0 if self.words else config.max_new_tokens)
        self._decayed, self._fixed = list(decayed), list(fixed)
        self._starts: list[Tensor] = []
        self._scope, self._before_step, self._after_step = scope, before_step, after_step
        self._toggled = tuple(toggled)
        self._loss_words = label_words_for_loss(config, self.words, base)
        self._output_head = OutputHead(base.model)
        self._checkpointed = checkpointable_blocks(base.model) if config.gradient_checkpointing else ()

    def make_encoder(self) -> Encoder:
        """What tokenises prompts and answers."""
        return Encoder(self.base, self.config.max_length, self.config.max_new_tokens, self.config.template)

    def extend(self, decayed: Sequence[Tensor], toggled: Sequence[nn.Module]) -> None:
        """Train more with it: a classification head, and modules whose dropout is to act."""
        self._decayed += decayed
        self._toggled += tuple(toggled)

    def prompts(self, prompts: Sequence[str]) -> list[Encoded]:
        """Tokenise prompts alone; the log says how many are cut."""
        rows = self.encoder.prompts(prompts)
        self._cuts.prompts(rows)
        return rows

    def _rows(self, examples: Sequence[Example]) -> list[Encoded]:
        """Tokenise prompts with their answers; the log says how many are cut."""
        rows = self.encoder.examples(examples)
        self._cuts.examples(rows)
        return with_choices(rows, examples, self._loss_words) if self._loss_words else rows

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round with a fresh optimiser.

        A step minimises the mean cross entropy per answer token of its batch, as transformers
        does. The base model runs in eval mode; only the adapter's and the head's own dropout act.

        Args:
            examples: The client's training set.
            rng: Decides the order and the dropout.

        Returns:
            Mean loss in nats per example (the whole answer's) over all examples seen.

        Raises:
            ClientFailure: If there is nothing to train on, or the training diverged; see ``step``.
        """
        if not examples:
            raise ClientFailure("the client has no training examples")
        rows = self._rows(examples)
        size = self.config.batch_size
        total = self.config.num_epochs * math.ceil(len(rows) / size)
        total = min(total, self.config.max_steps or total)
        optimizer = self.optimizer()
        self._starts = [v.detach().clone() for v in self._decayed + self._fixed if self.config.proximal]
        losses = seen = 0.0
        with seeded(self.base, int(rng.integers(2**63))), in_training(self._toggled):
            batches = training_batches(rows, size, total, rng, grouped=self.config.length_grouped)
            for step, batch in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * self.config.step_size(step, total)
                losses += self.step(self.encoder.batch(batch), optimizer, f"step {step + 1} of {total}")
                seen += len(batch)
        # What the last step did no loss has seen; a norm beyond the fp32 range is no adapter either.
        reached = [value.detach() for value in self._decayed + self._fixed]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(reached))):
            raise self._diverged(f"step {total} of {total}", "the parameters left the fp32 range")
        return losses / seen

    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh AdamW over the trainable tensors."""
        groups = [
            {"params": self._decayed, "weight_decay": self.config.weight_decay},
            {"params": self._fixed, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.config.learning_rate, fused=True
        )

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer, name: str = "the step") -> float:
        """One optimiser step on one batch; returns the sum of its examples' losses in nats.

        With ``accumulation_steps`` it passes in parts, each one's loss divided by the whole's predictions.

        Raises:
            ClientFailure: If loss or gradient is not finite (nothing has changed then), or if what
                the step leaves cannot be used.
        """
        parts = batch.parts(self.config.accumulation_steps)
        whole = batch.num_predictions if len(parts) > 1 else None
        summed = 0.0
        for part in parts:
            with self._scope(part), checkpointed(self._checkpointed):
                losses, count = self.losses(part)
                total = losses.sum()
                summed += float(total.detach())
                if not math.isfinite(summed):
                    optimizer.zero_grad(set_to_none=True)
                    raise self._diverged(name, f"the loss is {summed}")
                if total.requires_grad:  # not where no prompt of the part has a token to edit
                    (total / (whole or count)).backward()  # type: ignore[no-untyped-call]
        self.apply(optimizer, name)
        return summed

    def apply(self, optimizer: torch.optim.Optimizer, name: str = "the step") -> None:
        """Take the optimiser step for the gradients that stand in the trainable tensors.

        Raises:
            ClientFailure: If a gradient is not finite (the tensors are as before then), or if the
                step leaves tensors that cannot be put in order again.
        """
        parameters = self._decayed + self._fixed
        # FedProx (https://arxiv.org/abs/1812.06127); Adam then scales this pull like any gradient.
        for value, start in zip(parameters, self._starts, strict=False):
            if value.grad is not None:
                value.grad.add_(value.detach() - start, alpha=self.config.proximal)
        self._before_step()
        norm = torch.nn.utils.get_total_norm([value.grad for value in parameters if value.grad is not None])
        if not math.isfinite(float(norm)):
            optimizer.zero_grad(set_to_none=True)
            raise self._diverged(name, "the gradient is not finite")
        if 0 < self.config.max_grad_norm < norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_grad_norm, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        try:
            self._after_step()
        except torch.linalg.LinAlgError:
            raise self._diverged(name, "the parameters left the fp32 range") from None

    def _diverged(self, name: str, sign: str) -> ClientFailure:
        return ClientFailure(
            f"training diverged at {name} ({sign}): lower train.learning_rate "
            f"(now {self.config.learning_rate:g}) or check the data"
        )

    def losses(self, batch: Batch) -> tuple[Tensor, int]:
        """Forward pass of a right-padded batch.

        Returns:
            Each example's loss in nats (summed over its answer's tokens), [batch], and the number
            of predictions behind them, which the training objective divides by.
        """
        ids, mask, targets = batch.input_ids, batch.attention_mask, batch.targets
        if self.base.head == "classification":
            logits = self.base.model(input_ids=ids, attention_mask=mask).logits
            return functional.cross_entropy(logits.float(), targets, reduction="none"), len(ids)
        if batch.choices is not None:
            return self.label_losses(batch)
        return answer_losses(self._output_head, batch)

    def label_losses(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross entropy over the label words alone, [batch], and the number of rows."""
        assert batch.choices is not None
        rivals = self._logits_behind(batch, batch.choices)
        lengths = torch.from_numpy(batch.prompt_lengths).to(rivals.device)
        right = batch.choices == batch.targets.gather(1, lengths.unsqueeze(1))
        return functional.cross_entropy(rivals.float(), right.int().argmax(1), reduction="none"), len(rivals)

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss over examples in nats per example, forward only.

        Raises:
            ValueError: If there are no examples.
        """
        if not examples:
            raise ValueError("loss needs at least one example, got none")
        return sum(self._losses_of(self._rows(examples), self.losses)) / len(examples)

    def batches(self, rows: Sequence[Encoded]) -> Iterator[tuple[list[int], list[Encoded]]]:
        """Batches for a pass without gradients, with their row numbers, longest first."""
        return batches_by_length(rows, self.config.eval_batch_size, self.config.eval_batch_tokens)

    def log_likelihoods(self, examples: Sequence[Example]) -> list[float]:
        """Mean log-likelihood of each example's answer, nats per token (a classifier: of its label)."""
        rows = self.encoder.examples(examples)
        losses = self._losses_of(rows, self.losses)
        pairs = zip(rows, losses, strict=True)
        return [-loss / max(len(row.ids) - row.prompt_length, 1) for row, loss in pairs]

    def rate_options(self, examples: Sequence[Example]) -> list[list[float]]:
        """Log-likelihood of each example's options, nats; errors as in ``option_rows``."""
        rated = iter(self.rate(option_rows(self.base, self.config, examples)))
        return [[next(rated)[0] for _ in example.options] for example in examples]

    def rate(self, rows: Sequence[Encoded]) -> list[tuple[float, bool]]:
        """Log-likelihood of what stands behind each row's prompt, nats; whether greedy would write it."""
        found = self._losses_of(rows, partial(answer_ratings, self._output_head))
        return [(-loss, not wrong) for loss, wrong in found]

    def _losses_of(self, rows: Sequence[Encoded], losses: Callable[[Batch], tuple[Tensor, int]]) -> list[Any]:
        """What ``losses`` says of each row, in their order."""
        found: list[Any] = [0.0] * len(rows)
        with torch.no_grad():
            for indices, some in self.batches(rows):
                batch = self.encoder.batch(some)
                with self._scope(batch):
                    for index, loss in zip(indices, losses(batch)[0].tolist(), strict=True):
                        found[index] = loss
        return found

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """Answer each prompt: text up to the end-of-sequence token, or a label's name."""
        return self.answer(self.prompts(prompts), prompts, decoding)

    def answer(self, rows: Sequence[Encoded], prompts: Sequence[str], decoding: Decoding | None) -> list[str]:
        """The same of prompts that are tokens already."""
        answers = [""] * len(prompts)
        classifies = self.base.head == "classification"
        with torch.no_grad(), seeded(self.base, None if decoding is None else decoding.seed):
            for indices, batch in self.batches(rows):
                padded = self.encoder.batch(batch, left=not classifies and self.words is None)
                with self._scope(padded):
                    if classifies:
                        texts = self._classify(padded)
                    elif self.words is not None:
                        asked = [prompts[index] for index in indices]
                        rivals = self._logits_behind(padded, self.words.tokens(asked, self.base.device))
                        texts = self.words.choose(rivals, decoding)
                    else:
                        texts = complete(self.base, padded, self.config.max_new_tokens, decoding)
                for index, text in zip(indices, texts, strict=True):
                    answers[index] = text
        return answers

    def _classify(self, batch: Batch) -> list[str]:
        logits = self.base.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return [self.base.labels[index] for index in logits.argmax(-1).tolist()]

    def _logits_behind(self, batch: Batch, tokens: Tensor) -> Tensor:
        lengths = torch.from_numpy(batch.prompt_lengths).to(batch.input_ids.device)
        return self.last_logits(batch.input_ids, batch.attention_mask, lengths, tokens)

    def last_logits(self, ids: Tensor, mask: Tensor, lengths: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Logits at the last prompt token of right-padded rows.

        Args:
            ids: [batch, width], as ``mask`` is.
            mask: 1 at tokens, 0 at padding.
            lengths: Tokens of each prompt, [batch].
            tokens: Which are wanted of each row, [batch, num_tokens]; None: the whole vocabulary.
        """
        starts = torch.arange(0, ids.numel(), ids.shape[1], device=ids.device)
        return self._output_head.logits(ids, mask, starts + lengths - 1, tokens)
