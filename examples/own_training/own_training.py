"""LoRA whose local training is a ``transformers.Trainer`` (docs/own-training.md).

fedapp run method=fedit adapter._target_=own_training.TrainerLora +adapter.z_loss=0.0001
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from fedapp.adapters.lora.adapter import Lora, LoraAdapted
from fedapp.core.checks import require_number
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import ClientFailure, Example
from fedapp.models.base import Base
from fedapp.training.tokens import Encoded


class ZLossTrainer(transformers.Trainer):
    """Your trainer in the place of this one: any subclass, with any ``compute_loss``.

    Adds z * log(Z)^2 to the loss of each answer token, Z being the softmax's denominator.

    Source: PaLM, https://arxiv.org/abs/2204.02311, section 5
    """

    def __init__(self, *args: Any, z_loss: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.z_loss = z_loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean over the answer tokens of a batch; tensors are [batch, width]."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.z_loss:
            answers = inputs["labels"][:, 1:] != -100
            log_z = outputs.logits[:, :-1].float().logsumexp(-1)[answers]
            loss = loss + self.z_loss * log_z.square().mean()
        return (loss, outputs) if return_outputs else loss


@dataclass(frozen=True)
class TrainerLora(Lora):
    """LoRA, trained by ``ZLossTrainer``.

    Args:
        z_loss: Weight of the term; 0 leaves transformers' own loss.
    """

    z_loss: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("z_loss", self.z_loss, "[0, inf)")

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> TrainerLoraAdapted:
        """As ``Lora.attach``."""
        if base.head != "lm":
            raise ValueError(f"needs a language model, and model.head={base.head}")
        return TrainerLoraAdapted(self, base, train, seed=seed)


class TrainerLoraAdapted(LoraAdapted):
    """All but the training is as in ``LoraAdapted``: names, what is sent, scoring, export."""

    adapter: TrainerLora

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round.

        Args:
            examples: The client's training set.
            rng: The only source of chance, so that a run can be repeated.

        Returns:
            Mean loss of the trained model in nats per example.

        Raises:
            ClientFailure: If there is nothing to train on, or the training diverged.
        """
        if not examples:
            raise ClientFailure("the client has no training examples")
        config = self.trainer.config
        # fedapp's tokens: the prompt carries no loss, and is cut in training as in scoring.
        rows = self.trainer.encoder.examples(examples)
        with tempfile.TemporaryDirectory() as folder, _own_randomness():
            settings = arguments(config, folder, seed=int(rng.integers(2**31)), num_rows=len(rows))
            trainer = self.make_trainer(rows, settings)
            trainer.remove_callback(transformers.PrinterCallback)  # the run folder says how it went
            try:
                trainer.train()
            finally:
                self.base.model.eval()  # the base is shared, and scored without dropout
        loss = self.loss(examples)
        if not math.isfinite(loss):
            raise ClientFailure(
                f"training diverged: lower train.learning_rate (now {config.learning_rate:g})"
            )
        return loss

    def make_trainer(self, rows: Sequence[Encoded], settings: dict[str, Any]) -> transformers.Trainer:
        """The trainer of a round.

        Args:
            rows: The client's training set as tokens.
            settings: Of ``transformers.TrainingArguments``, as the run has them.
        """
        return ZLossTrainer(
            model=self.base.model,
            args=transformers.TrainingArguments(**settings),
            train_dataset=rows,
            data_collator=lambda some: columns(self.trainer.encoder.batch(some)),
            z_loss=self.adapter.z_loss,
        )


def arguments(config: TrainConfig, folder: str, *, seed: int, num_rows: int) -> dict[str, Any]:
    """What of fedapp's settings transformers' trainers know, by transformers' names."""
    steps = config.num_epochs * math.ceil(num_rows / config.batch_size)
    steps = min(steps, config.max_steps or steps)
    return {
        "output_dir": folder,
        "seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,  # transformers' curves of these names, not fedapp's
        "warmup_steps": math.ceil(config.warmup_ratio * steps),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def columns(batch: Any) -> dict[str, Tensor]:
    """What a causal language model of transformers takes, each [batch, width]."""
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.targets}


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Put back the generators that transformers seeds for the whole process."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
