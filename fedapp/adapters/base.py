"""What adapters that a ``Trainer`` runs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedapp.core.types import Arrays, Decoding, Example
from fedapp.models.base import Base
from fedapp.training.trainer import Trainer


class TrainedModel:
    """The part of ``fedapp.core.model.AdaptedModel`` that is the trainer's."""

    trainer: Trainer

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round; see ``Trainer.train``."""
        return self.trainer.train(examples, rng)

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss in nats per example, forward only."""
        return self.trainer.loss(examples)

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """Answer each prompt; see ``Trainer.generate``."""
        return self.trainer.generate(prompts, decoding)

    def log_likelihoods(self, examples: Sequence[Example]) -> list[float]:
        """Of each example's answer, nats per token."""
        return self.trainer.log_likelihoods(examples)


_MARK = "_fedapp_adapter"


def claim(base: Base, owner: str) -> None:
    """Mark a base as carrying an adapter.

    Raises:
        ValueError: If it carries one already: two would train each other's parts.
    """
    other = vars(base.model).get(_MARK)
    if other:
        raise ValueError(
            f"the base model ({base.path or 'in memory'}) already carries a {other} adapter: detach it first"
        )
    setattr(base.model, _MARK, owner)


def release(base: Base) -> None:
    """Undo ``claim``: the model carries no mark."""
    vars(base.model).pop(_MARK, None)


def as_tensors(parameters: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Turn received arrays into fp32 tensors.

    Args:
        parameters: Named arrays, any float dtype.
        shapes: What the adapter has, by name.

    Raises:
        ValueError: If a name is unknown, a shape differs or a value is not finite.
    """
    result = {}
    for name, value in parameters.items():
        if name not in shapes:
            known = ", ".join(sorted(shapes)[:3])
            raise ValueError(f"unknown parameter {name!r}: this adapter has {len(shapes)} ({known} …)")
        if tuple(np.shape(value)) != tuple(shapes[name]):
            raise ValueError(
                f"parameter {name!r} has shape {tuple(np.shape(value))}, "
                f"this adapter needs {tuple(shapes[name])}"
            )
        array = np.array(value, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"parameter {name!r} holds values that are not finite")
        result[name] = torch.from_numpy(array)
    return result
