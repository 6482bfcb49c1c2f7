"""How an adapter is trained on one client in one round."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedapp.core.checks import require_bool, require_choice, require_int, require_number

_EVALUATION = ("eval_batch_size", "eval_batch_tokens")


@dataclass(frozen=True)
class TrainConfig:
    """How an adapter is trained on one client in one round.

    Attributes:
        learning_rate: Peak step size of AdamW.
        batch_size: Examples per optimiser step.
        num_epochs: Passes over the client's training set per round.
        max_steps: Cap on optimiser steps per round; 0 means no cap.
        weight_decay: Decoupled weight decay of AdamW.
        warmup_ratio: Share of the round's steps over which the step size rises linearly.
        schedule: ``constant``, ``linear`` (down to zero at the round's last step) or ``cosine`` (half
            a period, which the warm-up multiplies).
        max_grad_norm: Global gradient-norm clip; 0 means none.
        proximal: Weight mu of FedProx's term mu / 2 * |w - w_start|^2, w_start being what the round's
            training starts from; 0 means none.
        gradient_checkpointing: Keep only the blocks' inputs for the backward pass and compute the
            rest again: less memory for one more forward pass, the same gradients.
        accumulation_steps: Parts in which a batch passes through the model; the optimiser still
            steps once per batch, with the gradient of the whole batch.
        length_grouped: Make batches of examples of similar length, which saves padding.
        max_length: Longest tokenised example, prompt and answer together.
        max_new_tokens: Longest generated answer in tokens; a prompt has at most ``max_length`` less these,
            in training, too.
        eval_batch_size: Most examples of a forward pass when scoring or generating.
        eval_batch_tokens: Most tokens of such a pass, padding included; one example may have more.
        answers: How a language model answers: ``text`` generates, ``labels`` chooses the benchmark's
            likeliest label word, ``auto`` chooses where there are label words. A classification head
            always chooses.
        loss: What a language model's cross entropy is over: the whole ``vocabulary`` (the papers' loss), or,
            where answers are label words, the ``labels``: the label words' first tokens alone (ours).
        template: Whether prompts are turns of a chat: ``chat`` by the tokenizer's template, ``auto`` where
            it has one, ``plain`` never.
    """

    learning_rate: float = 4e-3
    batch_size: int = 16
    num_epochs: int = 1
    max_steps: int = 0
    weight_decay: float = 0.0
    warmup_ratio: float = 0.0
    schedule: str = "constant"
    max_grad_norm: float = 1.0
    proximal: float = 0.0
    gradient_checkpointing: bool = False
    accumulation_steps: int = 1
    length_grouped: bool = False
    max_length: int = 256
    max_new_tokens: int = 16
    eval_batch_size: int = 64
    answers: str = "text"
    eval_batch_tokens: int = 8192
    loss: str = "vocabulary"
    template: str = "plain"

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_epochs", "max_length", "max_new_tokens", *_EVALUATION):
            require_int(f"{name}", getattr(self, name), at_least=1)
        require_int("max_steps", self.max_steps, at_least=0)
        require_int("accumulation_steps", self.accumulation_steps, at_least=1)
        if self.accumulation_steps > self.batch_size:
            raise ValueError(
                f"accumulation_steps={self.accumulation_steps} must not exceed "
                f"train.batch_size={self.batch_size}: a batch is cut into that many parts"
            )
        for name in ("gradient_checkpointing", "length_grouped"):
            require_bool(f"{name}", getattr(self, name))
        require_number("learning_rate", self.learning_rate, "(0, inf)")
        require_number("weight_decay", self.weight_decay, "[0, inf)")
        require_number("max_grad_norm", self.max_grad_norm, "[0, inf)")
        require_number("proximal", self.proximal, "[0, inf)")
        require_number("warmup_ratio", self.warmup_ratio, "[0, 1]")
        require_choice("schedule", self.schedule, ("constant", "linear", "cosine"))
        require_choice("answers", self.answers, ("auto", "labels", "text"))
        require_choice("template", self.template, ("auto", "chat", "plain"))
        require_choice("loss", self.loss, ("vocabulary", "labels"))

    def rows_per_round(self, num_examples: int) -> int:
        """Rows that a round's training passes, those that come again included."""
        rows = self.num_epochs * num_examples
        return min(rows, self.max_steps * self.batch_size) if self.max_steps else rows

    def step_size(self, step: int, total: int) -> float:
        """Share of the peak step size at a step: linear warm-up, then the schedule.

        Not transformers' schedules: their warm-up begins with a step of size 0, and moves their cosine.

        Args:
            step: Number of the step, from 0.
            total: Steps of the round.

        Returns:
            A fraction in [0, 1] that ``learning_rate`` is multiplied by.
        """
        warmup = math.ceil(self.warmup_ratio * total)
        if self.schedule == "cosine":  # Source: I2CL's code, which multiplies both factors
            return min((step + 1) / max(warmup, 1), 1.0) * (1 + math.cos(math.pi * step / total)) / 2
        if step < warmup:
            return (step + 1) / warmup
        if self.schedule == "linear":
            return (total - step) / max(total - warmup, 1)
        return 1.0
