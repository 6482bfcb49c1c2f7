"""LoRA whose local training is TRL's ``SFTTrainer`` (docs/own-training.md).

fedapp run method=fedit adapter._target_=own_sft.SftLora
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from own_training import TrainerLora, TrainerLoraAdapted, columns
from trl import SFTConfig, SFTTrainer

from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Example
from fedapp.models.base import Base
from fedapp.training.tokens import Encoded


@dataclass(frozen=True)
class SftLora(TrainerLora):
    """LoRA, trained by ``SFTTrainer``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.z_loss:
            raise ValueError(f"z_loss={self.z_loss} is own_training's: SFTTrainer has no such term")

    def attach(self, base: Base, train: TrainConfig, *, seed: int) -> SftLoraAdapted:
        """As ``Lora.attach``."""
        if base.head != "lm":
            raise ValueError(f"needs a language model, and model.head={base.head}")
        return SftLoraAdapted(self, base, train, seed=seed)


class SftLoraAdapted(TrainerLoraAdapted):
    """All but the trainer is as in ``TrainerLoraAdapted``."""

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """As ``TrainerLoraAdapted.train``.

        ``SFTTrainer`` puts a forward pass of its own on the model, which all clients share, and the
        tokenizer's special tokens into its configs: all that is taken back.
        """
        model = self.base.model
        forward = vars(model).get("forward")
        kept = [(vars(one), deepcopy(vars(one))) for one in (model.config, model.generation_config)]
        try:
            return super().train(examples, rng)
        finally:
            vars(model).pop("forward", None)
            if forward is not None:
                model.forward = forward
            for now, before in kept:
                now.clear()
                now.update(before)

    def make_trainer(self, rows: Sequence[Encoded], settings: dict[str, Any]) -> SFTTrainer:
        """As ``TrainerLoraAdapted.make_trainer``; TRL wants a ``Dataset``, which holds the rows' numbers."""
        args = SFTConfig(
            **settings,
            max_length=None,  # fedapp has cut the rows
            gradient_checkpointing=False,  # TRL's default is True, as is that of bf16
            bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        return SFTTrainer(
            model=self.base.model,
            args=args,
            train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
            data_collator=lambda some: columns(
                self.trainer.encoder.batch([rows[one["row"]] for one in some])
            ),
            processing_class=self.base.tokenizer,
        )
